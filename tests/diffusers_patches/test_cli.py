"""A folder in diffusers' layout on the command line: real loading code, on a tiny pipeline that was saved."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers_runs import TEXT_DIM, build

from hetcache.core.calibration import load_calibration
from hetcache.files import DATA
from hetcache.models import model_info
from hetcache.run.command import main

SMALL = ["--frames", "5", "--height", "48", "--width", "64", "--steps", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a text encoder of its own and a tokenizer of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "natural": 3, "background": 4}, "<unk>"))
    words.pre_tokenizer = Whitespace()
    pipe = build(sampler="unipc")
    config = UMT5Config(vocab_size=8, d_model=TEXT_DIM, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    torch.manual_seed(0)
    del pipe.vae.encode
    parts = {
        "tokenizer": PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ),
        "text_encoder": UMT5EncoderModel(config).eval(),
    }
    path = tmp_path_factory.mktemp("saved") / "wan-vace-diffusers"
    type(pipe)(**{**pipe.components, **parts}).save_pretrained(path)
    return path


def run(folder, tmp_path, *words):
    output = tmp_path / "edit.mp4"
    code = main(["--model", str(folder), *SMALL, "--output", str(output), *words])
    return code, output


def test_a_folder_is_edited_and_the_record_says_what_ran(folder, tmp_path):
    assert (folder / "model_index.json").is_file()
    code, output = run(folder, tmp_path, "--mode", "easycache", "--easycache-first", "1")
    assert code == 0
    record = json.loads(output.with_suffix(".json").read_text())
    assert record["model"] == "wan2.1-vace-1.3b-diffusers"
    assert record["decisions"]["cond"][0] == "F" and len(record["decisions"]["cond"]) == 4
    assert "not installed" not in record["versions"]["diffusers"]


def test_a_calibration_is_asked_for_by_command_and_the_command_makes_it(folder, tmp_path, capsys):
    from hetcache.calibrate.command import main as calibrate

    code, _ = run(folder, tmp_path, "--mode", "teacache")
    assert code == 2
    command = f"python -m hetcache.calibrate --model {folder}"
    assert "no calibration for model 'wan2.1-vace-1.3b-diffusers'" in (error := capsys.readouterr().err)
    assert command in error
    words = command.split()[3:]
    small = ["--rank", "0", "--frames", "5", "--height", "48", "--width", "64", "--steps", "6"]
    assert calibrate([*words, *small]) == 0
    made = load_calibration("wan2.1-vace-1.3b-diffusers", model=str(folder))
    assert (made.library, made.sampler) == ("diffusers", "UniPCMultistepScheduler")
    code, output = run(folder, tmp_path, "--mode", "hetcache", "--cache-thresh", "0.3", "--plan")
    assert code == 0
    code, output = run(folder, tmp_path, "--mode", "hetcache", "--cache-thresh", "0.3")
    assert code == 0


@pytest.mark.parametrize("flag", ["--fast-rope", "--cfg-batch", "--compile"])
def test_flags_of_diffsynth_are_refused(folder, tmp_path, capsys, flag):
    code, _ = run(folder, tmp_path, "--mode", "baseline", flag)
    assert code == 2 and flag in capsys.readouterr().err


def test_names_of_repositories_and_other_pipelines(folder, tmp_path):
    info = model_info("Wan-AI/Wan2.1-VACE-14B-diffusers")
    assert (info.backend, info.model_id) == ("diffusers", "wan2.1-vace-14b-diffusers")
    assert info.repository == "Wan-AI/Wan2.1-VACE-14B-diffusers"
    assert model_info(str(folder)).repository is None
    with pytest.raises(ValueError, match="unknown model 'Wan-AI/Wan2.1-VACE-1.3B'"):
        model_info("Wan-AI/Wan2.1-VACE-1.3B")
    (tmp_path / "model_index.json").write_text('{"_class_name": "LTXPipeline"}')
    with pytest.raises(ValueError, match="is a LTXPipeline of diffusers: an edit with a mask needs a WanVACEPipeline"):
        model_info(str(tmp_path))


def test_a_shift_is_the_schedulers_own(folder):
    from diffusers_runs import scheduler

    from diffusers_patches.loader import shifted

    for kind, name in (("unipc", "flow_shift"), ("euler", "shift")):
        made = shifted(scheduler(kind), 7.0)
        assert made.config[name] == 7.0
        made.set_timesteps(4)
        assert made.timesteps[1] > 900
    assert DATA.is_dir()
