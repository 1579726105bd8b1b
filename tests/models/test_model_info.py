"""What a model is asked for where nothing was said."""

from __future__ import annotations

from hetcache.core.options import EditSettings
from hetcache.models import MODELS


def test_a_removal_has_prompts_of_its_own_unless_they_are_given():
    wan, tiny = MODELS["wan2.1-vace-1.3b"], MODELS["tiny"]
    removing, filling = wan.complete(EditSettings(), removing=True), wan.complete(EditSettings())
    assert "empty" in removing.prompt and removing.negative_prompt.startswith("person")
    assert (filling.prompt, filling.negative_prompt) == (wan.prompt, wan.negative_prompt)
    assert wan.complete(EditSettings(prompt="a dog"), removing=True).prompt == "a dog"
    assert tiny.complete(EditSettings(), removing=True) == tiny.complete(EditSettings())


def test_only_the_embedded_model_is_given_what_other_frames_show():
    assert {name: info.auto_fill for name, info in MODELS.items()} == {
        "tiny": "propagate",
        "wan2.1-vace-1.3b": "grey",
        "wan2.1-vace-14b": "grey",
    }
