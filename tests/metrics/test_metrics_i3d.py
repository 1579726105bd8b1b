"""I3D, its weight layouts, and the Frechet distance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hetcache.metrics.errors import MetricError
from hetcache.metrics.frechet import frechet_distance, too_few_clips
from hetcache.metrics.i3d import I3D, _Unit, preprocess, same_padding
from hetcache.metrics.i3d_weights import (
    _DEEPMIND_BRANCHES,
    _PIERGIAJ_BRANCHES,
    _units,
    default_checkpoint,
    from_deepmind,
    load_i3d,
)

needs_weights = pytest.mark.skipif(
    not default_checkpoint().is_file(), reason="I3D weights are not fetched: python -m hetcache.metrics i3d"
)


@pytest.fixture(scope="module")
def model() -> I3D:
    """I3D with random weights and statistics that matter."""
    torch.manual_seed(0)
    model = I3D()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.2, 1.0)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return model


def as_deepmind(model: I3D) -> dict[str, torch.Tensor]:
    """The state of `model` under DeepMind's names, channels last."""
    state = model.state_dict()
    found = {}
    for ours, theirs in _units("/", _DEEPMIND_BRANCHES):
        found[f"params/{theirs}/Conv_0/kernel"] = state[f"{ours}.conv.weight"].permute(2, 3, 4, 1, 0).contiguous()
        found[f"params/{theirs}/BatchNorm_0/bias"] = state[f"{ours}.norm.bias"]
        for ending, name in (("mean", "running_mean"), ("var", "running_var")):
            value = state[f"{ours}.norm.{name}"]
            found[f"batch_stats/{theirs}/BatchNorm_0/{ending}"] = value.reshape(1, 1, 1, 1, -1)
    found["params/Logits/Conv3d_0c_1x1/Conv_0/kernel"] = state["head.weight"].permute(2, 3, 4, 1, 0).contiguous()
    found["params/Logits/Conv3d_0c_1x1/Conv_0/bias"] = state["head.bias"]
    return found


def as_piergiaj(model: I3D) -> dict[str, torch.Tensor]:
    """The state of `model` under the names of i3d_rgb_imagenet.pt."""
    state = model.state_dict()
    found = {"logits.conv3d.weight": state["head.weight"], "logits.conv3d.bias": state["head.bias"]}
    for ours, theirs in _units(".", _PIERGIAJ_BRANCHES):
        found[f"{theirs}.conv3d.weight"] = state[f"{ours}.conv.weight"]
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            found[f"{theirs}.bn.{name}"] = state[f"{ours}.norm.{name}"]
    return found


def same_state(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("size", range(1, 30))
@pytest.mark.parametrize("kernel, stride", [(1, 1), (2, 2), (3, 1), (3, 2), (7, 2)])
def test_same_padding_gives_tensorflows_sizes(size, kernel, stride):
    before, after = same_padding(size, kernel, stride)
    assert 0 <= after - before <= 1
    assert (size + before + after - kernel) // stride + 1 == math.ceil(size / stride)


def test_unit_equals_a_slow_convolution():
    """Even sizes at stride 2 pad at the end only: the detail that symmetric padding gets wrong."""
    torch.manual_seed(0)
    unit = _Unit(2, 3, 3, 2).eval()
    x = torch.randn(1, 2, 4, 5, 6)
    got = unit(x)
    assert got.shape == (1, 3, 2, 3, 3)
    scale = 1 / math.sqrt(1 + 1e-3)
    for t, i, j in np.ndindex(2, 3, 3):
        total = torch.zeros(3)
        for dt, di, dj in np.ndindex(3, 3, 3):
            # 4 and 6 are even: nothing before, one after. 5 is odd: one on either side.
            p, q, r = 2 * t + dt, 2 * i + di - 1, 2 * j + dj
            if 0 <= p < 4 and 0 <= q < 5 and 0 <= r < 6:
                total += unit.conv.weight[:, :, dt, di, dj] @ x[0, :, p, q, r]
        torch.testing.assert_close(got[0, :, t, i, j], torch.relu(total * scale), atol=1e-5, rtol=1e-5)


def test_shapes_and_mode(model):
    model.train()
    assert not any(module.training for module in model.modules())
    features = model(preprocess(torch.zeros(2, 30, 40, 3)))
    assert features.pooled.shape == (1, 1024) and features.logits.shape == (1, 400)
    assert not features.pooled.requires_grad
    with pytest.raises(ValueError, match="2 frames or more"):
        model(torch.zeros(1, 3, 1, 224, 224))


def test_preprocess_range_and_axes():
    frames = torch.zeros(3, 10, 12, 3, dtype=torch.uint8)
    frames[1, ..., 2] = 255
    clip = preprocess(frames)
    assert clip.shape == (1, 3, 3, 224, 224)
    torch.testing.assert_close(clip[0, 2, 1], torch.ones(224, 224), atol=1e-6, rtol=0)
    torch.testing.assert_close(clip[0, :, 0], -torch.ones(3, 224, 224), atol=1e-6, rtol=0)


def test_deepmind_layout(model, tmp_path):
    assert same_state(from_deepmind(as_deepmind(model)), model.state_dict())
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(as_deepmind(model), tmp_path / "i3d.safetensors")
    loaded, checkpoint = load_i3d(tmp_path / "i3d.safetensors")
    assert checkpoint.layout == "deepmind-kinetics-400" and checkpoint.bn_eps == 1e-3
    assert same_state(loaded.state_dict(), model.state_dict())


@pytest.mark.parametrize("wrapped", [False, True])
def test_piergiaj_layout(model, tmp_path, wrapped):
    state = as_piergiaj(model)
    assert len(state) == 57 * 6 + 2
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}} if wrapped else state, tmp_path / "i3d.pt")
    loaded, checkpoint = load_i3d(tmp_path / "i3d.pt")
    assert checkpoint.layout == "piergiaj" and checkpoint.bn_eps == 1e-3 == loaded.conv_1a.norm.eps
    assert len(checkpoint.sha256) == 64
    assert same_state(loaded.state_dict(), model.state_dict())


class RunsCode:
    def __reduce__(self):
        return print, ("should never run",)


def test_bad_checkpoints_are_named(model, tmp_path, capsys):
    classes = as_piergiaj(model) | {"logits.conv3d.weight": torch.zeros(157, 1024, 1, 1, 1)}
    part = {key: value for key, value in as_piergiaj(model).items() if not key.startswith("Mixed_4c.b2b.")}
    for name, content, words in (
        ("code.pt", {"a": RunsCode()}, "not a PyTorch state dict"),
        ("list.pt", [1, 2], "not a PyTorch state dict"),
        ("classes.pt", classes, "400 classes"),
        ("part.pt", part, "lacks 'Mixed_4c.b2b"),
    ):
        torch.save(content, tmp_path / name)
        with pytest.raises(MetricError, match=words):
            load_i3d(tmp_path / name)
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("text.pt", "text.safetensors"):
        with pytest.raises(MetricError, match=name):
            load_i3d(tmp_path / name)
    assert "should never run" not in capsys.readouterr().out


def test_a_torchscript_file_is_not_run(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("net/code/__torch__.py", "")
    with pytest.raises(MetricError, match="TorchScript"):
        load_i3d(tmp_path / "script.pt")


def test_missing_weights_name_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("HETCACHE_CACHE", str(tmp_path))
    with pytest.raises(MetricError, match=r"run `python -m hetcache.metrics i3d`"):
        load_i3d()
    with pytest.raises(MetricError, match=r"no I3D checkpoint at .*x.pt: run `python -m hetcache.metrics i3d`"):
        load_i3d(tmp_path / "x.pt")


@needs_weights
def test_fvd_of_zeros_and_ones_is_the_published_value():
    """8 clips of 30 black 64x64 frames against 8 white ones; TensorFlow's figure is 151.39244."""
    model, _ = load_i3d()
    black, white = (model(preprocess(torch.full((30, 64, 64, 3), value))).logits.numpy() for value in (0.0, 255.0))
    # The clips of a set are all the same: one pass serves for eight.
    distance = frechet_distance(white.repeat(8, axis=0), black.repeat(8, axis=0))
    assert distance == pytest.approx(151.39244, abs=1e-3)
    assert round(distance, 2) == 151.39


def test_frechet_equals_the_textbook_formula():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    a = rng.normal(size=(60, 12)) @ rng.normal(size=(12, 12))
    b = rng.normal(0.5, 2, size=(50, 12)) @ rng.normal(size=(12, 12))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b).real
    want = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(want, rel=1e-8)


@pytest.mark.parametrize("clips", [2, 3, 8])
@pytest.mark.parametrize("width", [400, 1024])
def test_frechet_of_few_clips_is_finite_and_zero_for_equal_sets(clips, width):
    rng = np.random.default_rng(clips)
    a, b = rng.normal(size=(2, clips, width)).astype(np.float32)
    distance = frechet_distance(a, b)
    assert isinstance(distance, float) and math.isfinite(distance) and distance > 0
    assert frechet_distance(a, a) == 0.0
    assert frechet_distance(a, a[::-1]) == 0.0
    assert frechet_distance(a, a + 2) == pytest.approx(4 * width, rel=1e-5)
    assert frechet_distance(np.zeros((clips, width)), np.zeros((clips, width))) == 0.0


def test_frechet_bad_inputs():
    with pytest.raises(MetricError, match="needs 2 clips"):
        frechet_distance(np.zeros((1, 4)), np.zeros((2, 4)))
    with pytest.raises(MetricError, match="of one width"):
        frechet_distance(np.zeros((2, 4)), np.zeros((2, 5)))


def test_few_clips_are_said_to_be_few():
    assert "8 clips for 400 features" in (too_few_clips(8, 400) or "")
    assert too_few_clips(400, 400) is not None and too_few_clips(401, 400) is None
