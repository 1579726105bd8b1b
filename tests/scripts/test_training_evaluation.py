"""What the embedded model is judged by: the token grid, words, fills, and the whole command."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from toys import toy_config

from diffsynth_patches.tiny import build_tiny_pipeline, save_tiny_weights
from hetcache.media.fill import fill_under_mask
from hetcache.media.write import write_video
from scripts.train import evaluate
from scripts.train.held_out import Clip
from scripts.train.sampling import boxed, filled
from scripts.train.token_grid import token_grid
from scripts.train.word_sway import WORDS, sway, sway_table

HOLE = np.s_[:, 48:144, 64:192]


def texture(grid_px: int = 0, strength: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A soft random texture whose masked middle gets blocks of unrelated brightness, and the mask."""
    rng = np.random.default_rng(3)
    frames = np.stack([cv2.GaussianBlur(rng.normal(128, 60, (192, 256, 3)), (0, 0), 2) for _ in range(3)])
    mask = np.zeros(frames.shape[:3], bool)
    mask[HOLE] = True
    if grid_px:
        blocks = rng.normal(0, strength, (3, 192 // grid_px + 1, 256 // grid_px + 1, 1))
        frames += np.where(mask[..., None], blocks.repeat(grid_px, 1).repeat(grid_px, 2)[:, :192, :256], 0)
    return frames.clip(0, 255).astype(np.uint8), mask


def test_tokens_of_unrelated_colour_show_as_a_grid():
    plain, strong = token_grid(*texture()), token_grid(*texture(16, 8))
    assert 0.6 < plain < 1.5
    assert strong > 2 * plain
    assert token_grid(*texture(16, 16)) > strong


def test_blocks_of_another_size_are_no_token_grid():
    assert token_grid(*texture(12, 8)) < 1.2
    assert token_grid(*texture(20, 8)) < 1.2


def test_a_grid_all_over_the_picture_is_the_scene_not_the_model():
    frames, mask = texture()
    blocks = np.random.default_rng(5).normal(0, 8, (3, 12, 16, 1)).repeat(16, 1).repeat(16, 2)
    frames = (frames + blocks).clip(0, 255).astype(np.uint8)
    assert 0.6 < token_grid(frames, mask) < 1.5


def test_a_mask_without_room_for_four_tokens_has_no_grid_to_speak_of():
    frames, mask = texture()
    mask[:] = False
    mask[:, 60:100, 60:110] = True
    assert np.isnan(token_grid(frames, mask))


def obeying(word: str, scale: float) -> np.ndarray:
    """A model that does what words say: grey noise, moved along the word by 10 levels per step of guidance."""
    frames = np.random.default_rng(0).normal(120, 20, (2, 32, 32, 3))
    colours = {"red": 0, "green": 1, "blue": 2}
    if word in colours:
        frames[..., colours[word]] += 10 * scale
    frames += {"bright": 10, "dark": -10}.get(word, 0) * scale
    if word == "smooth":
        frames = 120 + (frames - 120) / (1 + scale)
    return frames.clip(0, 255).astype(np.uint8)


def test_words_that_are_obeyed_are_right_and_monotone():
    mask = np.ones((2, 32, 32), bool)
    rows = [sway(word, obeying, obeying("", 1), mask) for word in WORDS]
    assert all(row["right"] and row["monotone"] for row in rows)
    deaf = [sway(word, lambda prompt, scale: obeying("", 1), obeying("", 1), mask) for word in WORDS]
    assert not any(row["right"] or row["monotone"] for row in deaf)
    # Too much guidance turns back: right, not monotone.
    turning = sway(WORDS[1], lambda prompt, scale: obeying(prompt, scale % 4), obeying("", 1), mask)
    assert turning["right"] and not turning["monotone"]
    table = sway_table(rows + deaf)
    assert len(table.splitlines()) == 2 + len(WORDS)
    assert "red | 1 of 2 | 1 of 2 | +5.0" in table


def test_fills_are_the_librarys():
    frames, mask = texture()
    clip = Clip("a", frames, mask)
    assert np.array_equal(filled(clip, "push_pull"), fill_under_mask(frames, mask, "push_pull"))
    for fill in ("propagate", "grey"):
        made = filled(clip, fill)
        assert np.array_equal(made[~mask], frames[~mask])
        assert not np.array_equal(made[mask], frames[mask])


def test_the_box_is_a_still_quarter_on_whole_tokens():
    frames, mask = texture()
    box = boxed(Clip("a", frames, mask)).mask_THW
    assert np.array_equal(box[0], box[2])
    rows, columns = np.flatnonzero(box[0].any(1)), np.flatnonzero(box[0].any(0))
    assert (rows[0] % 16, columns[0] % 16, (rows[-1] + 1) % 16, (columns[-1] + 1) % 16) == (0, 0, 0, 0)
    assert 0.2 < box.mean() < 0.3


class _Distance:
    """Stands in for LPIPS, whose weights a test does not fetch."""

    def distances(self, a, b, regions):
        error = np.abs(a.astype(float) - b).mean(-1) / 255
        return {
            "all": list(error.mean((1, 2))),
            **{k: [e[m].mean() for e, m in zip(error, regions[k], strict=True)] for k in regions},
        }


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """(clips, weights of a toy model)."""
    clips, weights = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("weights")
    frames = texture()[0][[0, 0, 1, 1, 2], :96, :128]
    write_video(clips / "a.mp4", frames, 25)
    write_video(clips / "a_mask.mp4", [np.full((96, 128, 3), 255, np.uint8)] * 5, 25)
    toy = toy_config(num_layers=1, ffn_dim=32, vace_layers=(0,))
    save_tiny_weights(build_tiny_pipeline(toy), toy, weights, {})
    return clips, weights


def test_one_command_measures_everything_and_goes_on(folders, tmp_path, monkeypatch, capsys):
    clips, weights = folders
    monkeypatch.setattr(evaluate, "load_lpips", lambda net: _Distance())
    words = ["--clips", str(clips), "--weights", str(weights), "--out", str(tmp_path), "--size", "5", "96", "128"]
    words += ["--holes", "box", "--fill", "propagate", "--words", "--steps", "2", "--guidance-clips", "a", "--fast"]
    torch.manual_seed(0)
    evaluate.main(words)
    shown = capsys.readouterr().out
    assert "LPIPS below Telea's on" in shown and "word | right | monotone" in shown
    row = json.loads((tmp_path / "a.json").read_text())
    assert row["fill"] == "propagate" and len(row["words"]) == len(WORDS)
    assert {"ours_token_grid", "source_token_grid", "guidance_change_db", "ours_lpips"} <= set(row)
    assert (tmp_path / "sheet.jpg").is_file()
    before = (tmp_path / "a.json").stat().st_mtime_ns
    evaluate.main(words)
    assert (tmp_path / "a.json").stat().st_mtime_ns == before
