"""The SAM 2 engine with a tiny model of random weights, saved to a folder: loading, marks, order, memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from discs import discs
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from hetcache.files import UserError
from hetcache.masking import command
from hetcache.masking.make import make_mask
from hetcache.masking.options import EngineOptions
from hetcache.masking.prompts import Box, Mark, Painted, Point, Polygon
from hetcache.masking.sam2 import Sam2Engine

SIDE = 128


def save_tiny(folder: Path) -> None:
    """A SAM 2 of the library's own classes, as small as its fixed widths allow, with its processor."""
    from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VideoProcessor, Sam2VisionConfig
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor
    from transformers.models.sam2_video.configuration_sam2_video import (
        Sam2VideoMaskDecoderConfig,
        Sam2VideoPromptEncoderConfig,
    )
    from transformers.models.sam2_video.video_processing_sam2_video import Sam2VideoVideoProcessor

    hiera = Sam2HieraDetConfig(
        hidden_size=12,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[12, 24, 48, 96],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=hiera,
        backbone_channel_list=[96, 48, 24, 12],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=128,
    )
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=128, image_size=SIDE),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=128, num_attention_heads=2, mlp_dim=64, iou_head_hidden_dim=32
        ),
        image_size=SIDE,
        num_maskmem=3,
        max_object_pointers_in_encoder=4,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=128,
        mask_downsampler_embed_dim=128,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=64,
    )
    torch.manual_seed(0)
    size = {"height": SIDE, "width": SIDE}
    images = Sam2ImageProcessor(size=size, mask_size={"height": SIDE // 4, "width": SIDE // 4})
    Sam2VideoModel(config).save_pretrained(folder)
    processor = Sam2VideoProcessor(images, Sam2VideoVideoProcessor(size=size), target_size=SIDE)
    processor.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam2")
    save_tiny(path)
    return path


@pytest.fixture(scope="module")
def engine(folder: Path) -> Sam2Engine:
    loaded = command.choose_engine(EngineOptions(engine="sam2", sam2=str(folder), device="cpu"))
    assert isinstance(loaded, Sam2Engine)
    return loaded


def frames(count: int = 6) -> NDArray[np.uint8]:
    return discs(count).frames_THWC


def test_every_frame_has_a_mask_and_twice_the_same(engine: Sam2Engine) -> None:
    marks = [Box(18, 26, 62, 70), Point(48, 48, frame=3)]
    steps: list[tuple[int, int, str]] = []
    one = make_mask(frames(), marks, engine, progress=lambda *step: steps.append(step))
    two = make_mask(frames(), marks, engine)
    assert all((a == b).all() for a, b in zip(one, two, strict=True)) and one.confidence == two.confidence
    assert [step[0] for step in steps] == list(range(1, 7)) and steps[-1][1] == 6
    assert all(0 <= value <= 1 for value in one.confidence)
    assert one.facts["name"] == "sam2" and one.keyframes == (0, 3)


def test_it_is_the_librarys_own_result(engine: Sam2Engine) -> None:
    """Forwards from a box on the first frame: what the library's own session over the whole clip gives, although ours
    prepares each frame when it is asked for and forgets what it needs no more."""
    clip = frames(9)
    session = engine.processor.init_video_session(video=clip, inference_device="cpu")
    engine.processor.add_inputs_to_inference_session(
        session, frame_idx=0, obj_ids=1, input_boxes=[[[18.0, 26.0, 62.0, 70.0]]]
    )
    wanted = [output.pred_masks for output in engine.model.propagate_in_video_iterator(session, start_frame_idx=0)]
    seen: list[torch.Tensor] = []
    found = engine.model.forward

    def spied(*args: Any, **kwargs: Any) -> Any:
        output = found(*args, **kwargs)
        seen.append(output.pred_masks)
        return output

    engine.model.forward = spied
    try:
        make_mask(clip, [Box(18, 26, 62, 70)], engine)
    finally:
        engine.model.forward = found
    # Ours looks at the marked frame once to take the marks in, and once more on its way.
    assert len(seen) == 10
    assert all(torch.equal(a, b) for a, b in zip(seen[1:], wanted, strict=True))


def test_backwards_from_the_last_frame(engine: Sam2Engine) -> None:
    truth = discs(6).truth_THW
    steps: list[str] = []
    track = make_mask(frames(), [Painted(truth[5], 5)], engine, progress=lambda done, total, what: steps.append(what))
    assert (track[5] == truth[5]).all()
    assert steps == ["forwards", *["backwards"] * 5]


def test_memory_does_not_grow_with_the_clip(engine: Sam2Engine) -> None:
    """Of the frames before, only those are kept that a later one looks at."""
    sizes = []
    forget = engine._forget

    def spied(session: Any, index: int) -> None:
        forget(session, index)
        sizes.append(len(session.output_dict_per_obj[0]["non_cond_frame_outputs"]))

    engine._forget = spied  # type: ignore[method-assign]
    try:
        make_mask(frames(12), [Box(18, 26, 62, 70)], engine)
    finally:
        del engine._forget  # type: ignore[misc]
    assert max(sizes) == 4


@pytest.mark.parametrize(
    "marks, message",
    [
        ([Box(1, 1, 9, 9), Box(20, 20, 40, 40)], "frame 0: SAM 2 takes one box a frame"),
        ([Polygon(((1, 1), (30, 1), (9, 40))), Point(5, 5)], "frame 0: SAM 2 takes either what is drawn or boxes"),
    ],
)
def test_mixtures_that_it_does_not_take(engine: Sam2Engine, marks: list[Mark], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_mask(frames(2), marks, engine)


def test_without_weights_one_line_names_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    words = ["clip.mp4", "--box", "1,1,9,9", "--engine", "sam2", "--output", str(tmp_path / "m.mp4")]
    for more in ([], ["--sam2", str(tmp_path / "empty")], ["--sam2", str(tmp_path / "broken")]):
        assert command.main([*words, *more]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hetcache-mask: error")]
        assert len(lines) == 1 and "hf download facebook/sam2.1-hiera-tiny --local-dir sam2" in lines[0]


def test_a_file_that_lacks_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    """transformers fills the gaps with random numbers and a warning."""
    shutil.copytree(folder, tmp_path / "gaps")
    weights = load_file(tmp_path / "gaps" / "model.safetensors")
    del weights["no_memory_embedding"]
    save_file(weights, tmp_path / "gaps" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of SAM 2's weights"):
        Sam2Engine.load(str(tmp_path / "gaps"), "cpu")


def test_devices_that_are_not_there(folder: Path) -> None:
    with pytest.raises(UserError, match="--device banana: use auto"):
        Sam2Engine.load(str(folder), "banana")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="has no GPU"):
            Sam2Engine.load(str(folder), "cuda")
