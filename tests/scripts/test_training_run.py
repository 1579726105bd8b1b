"""A whole training of a toy shape by the commands, its resumption, and states that travel."""

import json
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from diffsynth_patches.tiny import TinyConfig, build_autoencoder, load_tiny_pipeline
from hetcache.files import EMBEDDED_WEIGHTS
from hetcache.media.write import write_video
from scripts.train import autoencoder, carve, fills, loop
from scripts.train.__main__ import main
from scripts.train.ahead import Ahead
from scripts.train.arrays import HELD_OUT, pack, prepare
from scripts.train.autoencoder import watched_clips
from scripts.train.basis import change_basis, explained, matching_map
from scripts.train.carve import webp_images
from scripts.train.clips import draw
from scripts.train.export import read_log
from scripts.train.held_out import find_clips, write_watched
from scripts.train.loop import Means, checkpoint_steady
from scripts.train.optim import give_way, schedule
from scripts.train.pool import draw_masked
from scripts.train.state import read_parts, write_parts

SHAPES = (((1, 5, 32, 48), 0.5), ((1, 1, 32, 48), 0.5))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    for name in ("photo", "vtest"):
        noise = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        (folder / "in").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "in" / f"{name}.png"), cv2.resize(noise, (400, 300)))
    assert prepare([folder / "in"], folder / "data") == 1
    return folder / "data"


@pytest.fixture
def quick(monkeypatch):
    """Small clips, a short PCA, and checkpoints after every step."""
    from scripts.train import autoencoder, denoiser

    start = autoencoder.pca_start
    monkeypatch.setattr(autoencoder, "SHAPES", SHAPES)
    monkeypatch.setattr(autoencoder, "pca_start", lambda model, sampler: start(model, sampler, clips=2))
    monkeypatch.setattr(denoiser, "STAGES", ((0.0, SHAPES),))


def run(command: str, data: Path, out: Path, minutes: float = 0.01) -> None:
    main([command, "--data", str(data), "--out", str(out), "--minutes", str(minutes), "--perceptual", "0", "--small"])


def steps(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["step"])


def test_a_toy_model_is_trained_by_the_commands(data, quick, tmp_path):
    run("ae", data, tmp_path)
    main(["freeze", "--data", str(data), "--out", str(tmp_path), "--small"])
    run("dit", data, tmp_path)
    main(["export", "--out", str(tmp_path), "--to", str(tmp_path / "weights"), "--small"])
    pipe = load_tiny_pipeline(weights_dir=tmp_path / "weights")
    latents = pipe.vae.encode(torch.zeros(1, 3, 5, 32, 48), "cpu")
    assert torch.isfinite(latents).all()
    rows = read_log(tmp_path / "dit.jsonl")
    assert "threads" in rows[0]["machine"]

    before = steps(tmp_path / "ae.pt")
    steady = steps(checkpoint_steady(tmp_path / "ae.pt"))
    run("ae", data, tmp_path, minutes=0.02)
    assert steps(tmp_path / "ae.pt") > before
    # It was cooled down, so it went on from its last state at the full learning rate.
    lines = map(json.loads, (tmp_path / "ae.jsonl").read_text().splitlines())
    assert [row["step"] for row in lines if "machine" in row] == [0, steady]
    assert steady < before

    main(["restore", "--weights", str(tmp_path / "weights"), "--out", str(tmp_path / "again")])
    restored = torch.load(tmp_path / "again" / "dit.pt", weights_only=True)
    assert restored["step"] == 0
    run("dit", data, tmp_path / "again")
    assert steps(tmp_path / "again" / "dit.pt") > 0


def test_a_cooldown_that_was_stopped_goes_on(data, quick, tmp_path):
    pausing = ["--data", str(data), "--out", str(tmp_path), "--perceptual", "0", "--small", "--cooldown", "1"]
    for _ in range(2):
        main(["ae", *pausing, "--minutes", "10", "--session-minutes", "0.005"])
    begun = [row["step"] for row in read_log(tmp_path / "ae.jsonl") if "machine" in row]
    # From where it stopped, not from before the cooldown.
    assert begun[1] > steps(checkpoint_steady(tmp_path / "ae.pt"))


def test_denoiser_without_a_frozen_autoencoder_is_refused(data, quick, tmp_path):
    with pytest.raises(SystemExit, match=r"ae-frozen.pt is missing: train `ae` and run `freeze` first"):
        run("dit", data, tmp_path)


def test_held_out_names():
    assert all(HELD_OUT.fullmatch(name) for name in ("vtest", "real", "masks", "camel_mask"))
    assert not HELD_OUT.fullmatch("realism")


def test_of_a_wallpaper_in_many_sizes_one_is_taken(tmp_path):
    folder = tmp_path / "Kite" / "contents" / "images"
    folder.mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    for size in ("400x300", "320x240", "300x400"):
        cv2.imwrite(str(folder / f"{size}.png"), picture)
    assert prepare([tmp_path], tmp_path / "data") == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["p_Kite_400x300_384.npy"]


def test_packed_data_can_be_prepared_again(data, tmp_path):
    assert pack(data, tmp_path / "pack") < 1
    assert prepare([tmp_path / "pack"], tmp_path / "data") == 1
    first, second = (np.load(next(folder.glob("*.npy"))) for folder in (data, tmp_path / "data"))
    assert np.abs(first.astype(int) - second).mean() < 6


def test_pack_refuses_what_does_not_fit(data, tmp_path):
    with pytest.raises(ValueError, match="take fewer sources"):
        pack(data, tmp_path, limit_mib=0.0001)


def test_a_state_travels_in_parts(tmp_path):
    weight = torch.linspace(-1, 1, 1000)
    state = {"model": {"w": weight}, "ema": {"w": -weight}, "step": 7, "used_s": 60.0, "cooled": False}
    torch.save(state, tmp_path / "dit.pt")
    parts = write_parts(tmp_path / "dit.pt", tmp_path / "parts", part_bytes=1500)
    assert len(parts) > 1
    assert max(part.stat().st_size for part in parts) <= 1500
    back = torch.load(read_parts(tmp_path / "parts", "dit", tmp_path / "there"), weights_only=True)
    assert torch.equal(back["ema"]["w"], -weight.half())
    assert (back["step"], back["used_s"]) == (7, 60.0)
    with pytest.raises(FileNotFoundError, match="no parts ae.0"):
        read_parts(tmp_path / "parts", "ae", tmp_path)


def test_the_learning_rate_warms_up_after_every_start_and_cools_at_the_end():
    assert schedule(0.5, 0, 10, 0.25) == pytest.approx(0.1)
    assert schedule(0.5, 10, 10, 0.25) == 1
    assert schedule(0.875, 100, 10, 0.25) == pytest.approx(0.5)
    assert schedule(1.0, 100, 10, 0.25) == 0.02


def test_a_nice_training_is_nice_as_a_session_too(tmp_path, monkeypatch):
    file = tmp_path / "autogroup"
    monkeypatch.setattr("os.nice", lambda more: 19)
    give_way(file)
    assert not file.exists()
    file.write_text("/autogroup-7 nice 0")
    give_way(file)
    assert file.read_text() == "19"
    monkeypatch.setattr("os.nice", lambda more: 0)
    file.write_text("untouched")
    give_way(file)
    assert file.read_text() == "untouched"


def test_means_start_anew_after_they_are_taken():
    means = Means()
    means.add({"a": 1.0})
    means.add({"a": 3.0})
    assert means.take() == {"a": 2.0}
    means.add({"a": 5.0})
    assert means.take() == {"a": 5.0}


def test_a_log_resumed_from_a_checkpoint_replaces_what_came_after_it(tmp_path):
    rows = [{"step": step, "used_s": used} for step, used in ((1, 10.0), (2, 20.0), (1, 12.0))]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [row["used_s"] for row in read_log(tmp_path / "x.jsonl")] == [10.0, 12.0]


def test_worker_processes_draw_what_this_one_would(data):
    arguments = [(data, (1, 2, index), (2, 5, 32, 48)) for index in range(3)]
    here, there = Ahead(0), Ahead(1)
    try:
        queue = [iter(arguments + arguments) for _ in range(2)]
        for _ in range(2):
            a = here.take(draw, lambda: next(queue[0]))
            b = there.take(draw, lambda: next(queue[1]))
            assert np.array_equal(a, b)
    finally:
        there.close()


def test_a_drawn_batch_holds_masks_fills_and_words(data):
    drawn = draw_masked(data, (0,), (4, 9, 64, 80), 3, propagated=1.0)
    assert drawn.clips.shape == (3, 9, 64, 80, 3)
    assert all(words for words in drawn.words)
    for clip, mask, filled in zip(drawn.clips, drawn.masks, drawn.filled, strict=True):
        assert np.array_equal(filled[mask == 0], clip[mask == 0])
        assert not np.array_equal(filled[mask > 0], clip[mask > 0])
    assert draw_masked(data, (0,), (1, 1, 64, 80), 1, propagated=1.0).filled == [None]


def test_photographs_are_taken_out_of_resource_files(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    webp = cv2.imencode(".webp", picture)[1].tobytes()
    sound = b"RIFF" + (400).to_bytes(4, "little") + b"WAVE" + bytes(396)
    content = b"qres" + webp + sound + bytes(7) + webp + webp[: len(webp) // 2]
    assert list(webp_images(content, smallest=100)) == [webp, webp]
    assert list(webp_images(content, smallest=len(webp) + 1)) == []
    (tmp_path / "a.rcc").write_bytes(content)
    carve.main([str(tmp_path / "a.rcc"), "--to", str(tmp_path / "out")])
    assert not list((tmp_path / "out").iterdir())  # below the smallest that is a photograph


def test_fills_are_made_beforehand_kept_and_cut_into_pieces(data, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    monkeypatch.setattr(fills, "SIZES", (((9, 64, 96), 1.0),))
    monkeypatch.setattr(fills, "LEAST_SEEN", 0.0)
    assert (fills.make_fills(folder, 2), fills.make_fills(folder, 3)) == (2, 1)
    assert np.load(folder / "f_00000.npy").shape == (9, 64, 96, 7)
    clip, mask, filled = fills.piece(folder, np.random.default_rng(0), 5, 48, 64, tries=50)
    assert clip.shape == filled.shape == (5, 48, 64, 3)
    assert np.array_equal(filled[mask == 0], clip[mask == 0])
    assert fills.piece(folder, np.random.default_rng(0), 17, 48, 64) is None
    drawn = draw_masked(folder, (0,), (2, 5, 48, 64), 2, propagated=0.0, grey=1.0)
    assert all((f[m > 0] == 128).all() for f, m in zip(drawn.filled, drawn.masks, strict=True))


def test_turned_latents_resemble_the_old_ones_and_decode_to_the_same():
    torch.manual_seed(0)
    model = build_autoencoder(TinyConfig(vae_width=16, vae_encoder_depth=1, vae_decoder_depth=1))
    video = torch.rand(1, 3, 5, 32, 48) * 2 - 1
    before = model.decode(model.encode(video))
    new = torch.randn(4000, 16)
    mixing = torch.randn(16, 16).double()
    old = new.double() @ mixing.T + 3
    turn = matching_map(new, old)
    spread = torch.cov(new.double().T)
    assert torch.allclose(turn @ spread @ turn.T, torch.cov(old.T), atol=1e-2)
    # A change of scale and order is met whole.
    shuffled = new[:, torch.randperm(16)] * torch.linspace(0.5, 2, 16)
    assert explained(matching_map(new, shuffled), new, shuffled).min() > 0.98
    change_basis(model, turn)
    assert torch.allclose(model.decode(model.encode(video)), before, atol=1e-3)


def test_freezing_like_older_weights_lets_their_denoiser_go_on(data, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "freeze", partial(autoencoder.freeze, clips=6))
    run("ae", data, tmp_path)
    main(["freeze", "--data", str(data), "--out", str(tmp_path), "--small", "--like", str(EMBEDDED_WEIGHTS)])
    assert steps(tmp_path / "dit.pt") == 0
    weight = torch.load(tmp_path / "dit.pt", weights_only=True)["model"]["dit.patch_embedding.weight"]
    assert torch.equal(weight, load_tiny_pipeline().dit.patch_embedding.weight)


def test_a_stage_goes_on_in_calls_that_know_only_parts(data, tmp_path, quick):
    """What gpu.sh does: train, split, and go on elsewhere from the parts."""
    run("ae", data, tmp_path / "a")
    main(["split", "--stage", "ae", "--out", str(tmp_path / "a"), "--to", str(tmp_path / "parts"), "--small"])
    main(["join", "--stage", "ae", "--out", str(tmp_path / "b"), "--to", str(tmp_path / "parts"), "--small"])
    before = steps(tmp_path / "b" / "ae.pt")
    run("ae", data, tmp_path / "b", minutes=0.02)
    assert steps(tmp_path / "b" / "ae.pt") > before == steps(tmp_path / "a" / "ae.pt")


def test_known_optimisers_go_on_at_the_full_rate_and_new_ones_warm_up(data, tmp_path, quick, monkeypatch):
    rates = []
    monkeypatch.setattr(loop, "_set_rates", lambda optimizers, options, factor: rates.append(factor))
    flags = ["--minutes", "60", "--session-minutes", "0.005", "--perceptual", "0", "--small"]
    for _ in range(2):
        rates.append(None)
        main(["ae", "--data", str(data), "--out", str(tmp_path), *flags])
    first, second = rates[1 : rates.index(None, 1)], rates[rates.index(None, 1) + 1 :]
    assert first[0] < 0.1
    assert set(second) == {1.0}


def test_a_call_ends_after_its_own_minutes(data, tmp_path, quick):
    main(
        ["ae", "--data", str(data), "--out", str(tmp_path), "--minutes", "60", "--session-minutes", "0.01"]
        + ["--perceptual", "0", "--small"]
    )
    assert 0 < torch.load(tmp_path / "ae.pt", weights_only=True)["used_s"] < 60


def test_clips_to_watch_come_with_their_masks(tmp_path):
    rng = np.random.default_rng(0)
    frames = [cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (64, 48)) for _ in range(5)]
    write_video(tmp_path / "a.mp4", frames, 25)
    write_video(tmp_path / "a_mask.mp4", [np.full((48, 64, 3), 255, np.uint8)] * 5, 25)
    with pytest.raises(SystemExit, match="5 frames, 9 are needed"):
        find_clips([tmp_path], 9, 48, 64)
    clips = find_clips([tmp_path], 5, 48, 64)
    write_watched(clips, tmp_path / "watch")
    assert [path.stem for path in watched_clips(tmp_path / "watch")] == ["a"]
    assert np.load(tmp_path / "watch" / "a_mask.npy").all()
