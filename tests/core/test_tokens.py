"""Token classes against a slow oracle that looks at every pixel."""

from __future__ import annotations

import pytest
import torch

from hetcache.core.tokens import classify, default_margin_width, latent_frames, mask_to_grid
from hetcache.core.vocabulary import Grid


def oracle(mask_THW, margin_width, margin_frames):
    """Class of each token by nested loops: 2 generative, 1 margin, 0 context."""
    num_frames, height, width = mask_THW.shape
    grid = (latent_frames(num_frames), height // 16, width // 16)
    touched = {
        (f, y, x)
        for f in range(grid[0])
        for y in range(grid[1])
        for x in range(grid[2])
        if mask_THW[
            0 if f == 0 else 4 * f - 3 : 1 if f == 0 else 4 * f + 1,
            16 * y : 16 * y + 16,
            16 * x : 16 * x + 16,
        ].any()
    }
    labels = []
    for f in range(grid[0]):
        for y in range(grid[1]):
            for x in range(grid[2]):
                near = any(
                    abs(f - g) <= margin_frames and abs(y - v) <= margin_width and abs(x - u) <= margin_width
                    for g, v, u in touched
                )
                labels.append(2 if (f, y, x) in touched else 1 if near else 0)
    return torch.tensor(labels, dtype=torch.uint8).view(grid)


def random_mask(seed, num_frames=9, height=80, width=112):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(num_frames, height, width, dtype=torch.bool)
    for _ in range(3):
        t, y, x = (int(torch.randint(0, n, (), generator=generator)) for n in mask.shape)
        mask[t : t + 2, y : y + 20, x : x + 9] = True
    return mask


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("margin", [(0, 0), (1, 0), (2, 1)])
def test_classes_equal_the_oracle(seed, margin):
    mask = random_mask(seed)
    classes = classify(mask, *margin)
    assert torch.equal(classes.labels_FHW(), oracle(mask, *margin))
    everything = torch.cat([classes.generative_G, classes.margin_M, classes.context_C]).sort().values
    assert torch.equal(everything, torch.arange(classes.num_tokens))


@pytest.mark.parametrize("place", ["empty", "full", "border", "one pixel in the last frame", "single frame"])
def test_edge_masks(place):
    num_frames = 1 if place == "single frame" else 5
    mask = torch.zeros(num_frames, 48, 64, dtype=torch.bool)
    if place == "full":
        mask[:] = True
    elif place == "border":
        mask[:, :3, :] = True
    elif place == "one pixel in the last frame":
        mask[-1, 47, 63] = True
    elif place == "single frame":
        mask[0, 20:30, 20:30] = True
    classes = classify(mask, 1, 1)
    assert torch.equal(classes.labels_FHW(), oracle(mask, 1, 1))
    if place == "full":
        assert len(classes.margin_M) == len(classes.context_C) == 0
    if place == "empty":
        assert len(classes.context_C) == classes.num_tokens


@pytest.mark.parametrize("shape", [(4, 32, 32), (5, 40, 32), (5, 32, 33)])
def test_sizes_that_the_model_cannot_take_are_refused(shape):
    with pytest.raises(ValueError, match=r"4k\+1"):
        mask_to_grid(torch.zeros(shape, dtype=torch.bool))


def test_margin_scales_with_the_grid():
    mask = torch.zeros(1, 480, 832, dtype=torch.bool)
    assert default_margin_width(classify(mask).grid) == 5
    assert default_margin_width(classify(mask[:, :240, :416]).grid) == 2
    assert default_margin_width(classify(mask[:, :32, :32]).grid) == 1


def test_reference_frames_come_first_as_a_class_of_their_own():
    mask = torch.zeros(9, 64, 96, dtype=torch.bool)
    mask[:, 16:32, 16:48] = True
    alone, behind = classify(mask, 1), classify(mask, 1, reference_frames=2)
    ahead = 2 * 4 * 6
    assert behind.grid == Grid(5, 4, 6)
    assert behind.reference_R.tolist() == list(range(ahead))
    for name in ("generative_G", "margin_M", "context_C"):
        assert torch.equal(getattr(behind, name), getattr(alone, name) + ahead)
    labels = behind.labels_FHW()
    assert (labels[:2] == 3).all() and torch.equal(labels[2:], alone.labels_FHW())
    assert alone.behind(0) is alone and len(alone.reference_R) == 0
