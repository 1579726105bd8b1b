"""inference.py as typed: the paper's commands, bad input, and whole runs of the embedded model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import ffmpeg

from hetcache.cli import UsageError, build_parser, parse
from hetcache.media.read import probe, read_frames
from hetcache.media.write import write_video

ROOT = Path(__file__).resolve().parents[2]
import inference  # noqa: E402

PAPER_COMMANDS = [
    "--mode baseline --video data/real.mp4 --mask data/masks.mp4 --frames 33 --steps 50 --apply-mask-to-input",
    "--mode pab --video data/real.mp4 --mask data/masks.mp4 --frames 33 --steps 50 --apply-mask-to-input",
    "--mode adacache --video data/real.mp4 --mask data/masks.mp4 --frames 33 --steps 50 --apply-mask-to-input",
    "--mode teacache --video data/real.mp4 --mask data/masks.mp4 --frames 33 --steps 50 --cache-thresh 0.05 "
    "--apply-mask-to-input",
    "--mode hetcache --video data/real.mp4 --mask data/masks.mp4 --frames 33 --steps 50 --cache-thresh 0.05 "
    "--context-ratio 0.7 --margin-ratio 1.0 --use-kmeans --kmeans-clusters 16 --use-attention-interaction "
    "--apply-mask-to-input",
    "--mode fastcache --video data/real.mp4 --mask data/masks.mp4 --frames 33 --steps 50 --apply-mask-to-input",
]


@pytest.mark.parametrize("command", PAPER_COMMANDS)
def test_the_papers_commands_are_understood(command):
    request = parse(command.split())
    config = request.config
    assert request.length.frames == 33
    assert request.edit.apply_mask_to_input
    if request.mode.name == "hetcache":
        assert (config.context_ratio, config.margin_ratio, config.cache_thresh) == (0.7, 1.0, 0.05)


def test_the_papers_defaults():
    config = parse(["--mode", "hetcache"]).config
    assert (config.cache_thresh, config.context_ratio, config.margin_ratio) == (0.05, 0.05, 0.7)
    assert config.kmeans_clusters == 16
    assert config.use_kmeans
    assert config.use_attention_interaction
    config = parse("--mode hetcache --no-use-kmeans --no-use-attention-interaction".split()).config
    assert not config.use_kmeans
    assert not config.use_attention_interaction


def test_a_flag_of_another_mode_is_an_error_that_names_the_right_one():
    with pytest.raises(UsageError, match="--margin-ratio is a setting of --mode .*hetcache.*, not of baseline"):
        parse("--mode baseline --margin-ratio 0.5".split())


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--context-ratio 1.5", "between 0 and 1"),
        ("--cache-thresh -1", "negative"),
        ("--kmeans-clusters 0", "at least 1"),
        ("--band 0.5", "at least 1"),
    ],
)
def test_settings_are_validated_with_the_flag_in_the_message(flags, message):
    with pytest.raises(UsageError, match=message):
        parse(["--mode", "hetcache", *flags.split()])


def test_help_teaches():
    text = build_parser().format_help()
    for expected in ("--mode hetcache", "arXiv 2603.24260", "--margin-ratio", "(default 0.7)", "examples:"):
        assert expected in text


@pytest.fixture
def clip(tmp_path):
    rng = np.random.default_rng(0)
    base = np.kron(rng.integers(0, 255, (8, 12, 3), dtype=np.uint8), np.ones((12, 12, 1), np.uint8))
    frames = np.stack([np.roll(base, 3 * t, axis=1) for t in range(12)])
    mask = np.zeros((12, 96, 144, 3), np.uint8)
    mask[:, 30:60, 40:90] = 255
    write_video(tmp_path / "v.mp4", frames, 12.0)
    write_video(tmp_path / "m.mp4", mask, 12.0)
    write_video(tmp_path / "black.mp4", mask * 0, 12.0)
    write_video(tmp_path / "white.mp4", mask * 0 + 255, 12.0)
    return tmp_path


def command(folder, *extra, mask="m.mp4"):
    return [
        "--video",
        str(folder / "v.mp4"),
        "--mask",
        str(folder / mask),
        "--frames",
        "9",
        "--steps",
        "5",
        "--height",
        "64",
        "--width",
        "96",
        "--output",
        str(folder / "out.mp4"),
        "--model",
        "tiny",
        *extra,
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(clip, capsys):
    clip.chmod(0o500)
    try:
        assert inference.main(command(clip)) == 2
    finally:
        clip.chmod(0o700)
    assert "out.mp4" in capsys.readouterr().err


def test_an_empty_mask_returns_the_input_and_says_so(clip, capsys):
    assert inference.main(command(clip, mask="black.mp4")) == 0
    assert "the mask is empty" in capsys.readouterr().out
    assert "the mask is empty" in json.loads((clip / "out.json").read_text())["note"]
    output, source = read_frames(clip / "out.mp4"), read_frames(clip / "v.mp4", 9)
    assert np.abs(output.astype(int) - source).mean() < 4


@pytest.mark.parametrize("mask", ["m.mp4", "black.mp4"])
def test_the_sound_comes_along_or_the_record_says_why_not(clip, mask):
    ffmpeg(
        "-i",
        clip / "v.mp4",
        "-f",
        "lavfi",
        "-i",
        "sine=d=2",
        "-c:v",
        "copy",
        "-c:a",
        "libopus",
        "-strict",
        "-2",
        "-shortest",
        clip / "loud.mkv",
    )
    (clip / "odd.mkv").write_bytes((clip / "loud.mkv").read_bytes().replace(b"A_OPUS", b"A_OPUX"))
    for name, heard in (("loud.mkv", True), ("odd.mkv", False)):
        assert inference.main([*command(clip, mask=mask), "--video", str(clip / name)]) == 0
        assert probe(clip / "out.mp4").has_audio is heard
        assert ("written without sound" in (clip / "out.json").read_text()) is not heard


def test_a_still_image_is_a_video_of_one_frame(clip):
    Image.fromarray(read_frames(clip / "v.mp4", 1)[0]).save(clip / "v.png")
    for frames in ("1", "all"):
        assert inference.main([*command(clip), "--video", str(clip / "v.png"), "--frames", frames]) == 0
        assert read_frames(clip / "out.mp4").shape == (1, 96, 144, 3)


KEYS = {
    "schema",
    "mode",
    "model",
    "config",
    "versions",
    "hardware",
    "seed",
    "timing_s",
    "decisions",
    "tokens",
    "blocks",
    "flops",
    "cache_bytes",
    "peak_memory_gib",
    "outputs",
}


@pytest.mark.parametrize("mask", ["m.mp4", "white.mp4"])
def test_hetcache_edits_the_clip_and_records_what_it_did(clip, capsys, mask):
    extra = ["--mode", "hetcache", "--save-raw", "--compare"]
    assert inference.main(command(clip, *extra, mask=mask)) == 0
    record = json.loads((clip / "out.json").read_text())
    assert KEYS | {"compare"} <= set(record)
    assert set(record["timing_s"]) == {"load", "text", "vae_encode", "denoise", "vae_decode", "composite", "total"}
    assert len(record["decisions"]["cond"]) == len(record["decisions"]["uncond"]) == 5
    assert set(record["compare"]["psnr_db"]) == {"edit", "in_mask", "seam", "outside", "whole"}
    info = probe(clip / "out.mp4")
    assert (info.width, info.height, info.fps) == (144, 96, 12.0)
    assert len(read_frames(clip / "out.mp4")) == 9
    assert probe(clip / "out_raw.mp4").height == 64
    shown = capsys.readouterr().out
    assert record["decisions"]["cond"] in shown
    assert "generative" in shown
    if mask == "m.mp4":
        output, source = read_frames(clip / "out.mp4"), read_frames(clip / "v.mp4", 9)
        assert np.abs(output[:, :16].astype(int) - source[:, :16]).mean() < 3


def test_the_same_command_gives_the_same_bytes(clip):
    """Two runs in one process: the model's decisions and frames, then the encoded file. A difference is named by the
    first of them that differs; it does not cover other machines, numbers of threads or versions."""
    found = []
    for _ in range(2):
        assert inference.main(command(clip, "--mode", "hetcache", "--save-raw")) == 0
        record = json.loads((clip / "out.json").read_text())
        found.append((record["decisions"], record["tokens"], read_frames(clip / "out_raw.mp4")))
    assert found[0][:2] == found[1][:2], "the denoising loop"
    assert np.array_equal(found[0][2], found[1][2]), "the model's frames"
    assert inference.main(command(clip, "--mode", "hetcache")) == 0
    first = (clip / "out.mp4").read_bytes()
    assert inference.main(command(clip, "--mode", "hetcache")) == 0
    assert (clip / "out.mp4").read_bytes() == first


def test_an_accelerating_mode_that_skips_nothing_says_so(clip, capsys):
    assert inference.main(command(clip, "--mode", "hetcache", "--cache-thresh", "0", "--max-partial-run", "0")) == 0
    assert "NOT ACCELERATED" in capsys.readouterr().out
    assert json.loads((clip / "out.json").read_text())["accelerated"] is False


def test_from_the_shell(clip):
    result = subprocess.run(
        [sys.executable, str(ROOT / "inference.py"), *command(clip, "--frames", "8")], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("flags", [["--mode", "easycache"], ["--mode", "hetcache", "--signal", "output"]])
def test_one_batch_for_both_branches_is_refused_where_content_decides(clip, capsys, flags):
    assert inference.main(command(clip, *flags, "--cfg-batch")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--cfg-batch" in error and "leave the flag out" in error
    assert not (clip / "out.mp4").exists()


def test_one_batch_for_both_branches_edits_and_is_recorded(clip):
    assert inference.main(command(clip, "--mode", "hetcache", "--cfg-batch", "--fast-rope")) == 0
    record = json.loads((clip / "out.json").read_text())
    assert record["config"]["cfg_batch"] is True and record["config"]["compile"] is False
    assert record["decisions"]["cond"] == record["decisions"]["uncond"]


def test_no_compiler_is_one_line_before_the_model_loads(clip, capsys, monkeypatch):
    import diffsynth_patches.compiled as regions
    import diffsynth_patches.loader as loader

    def none(device):
        raise ValueError("--compile: no C++ compiler was found")

    monkeypatch.setattr(regions, "check_compiler", none)
    monkeypatch.setattr(loader, "load_pipeline", lambda *args: pytest.fail("the model was loaded"))
    assert inference.main(command(clip, "--compile")) == 2
    assert capsys.readouterr().err.strip() == "inference.py: error: --compile: no C++ compiler was found"
