"""Shared fixtures: a really built Wan-VACE pipeline at a width where a test takes milliseconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from metrics_helpers import load_evaluation
from pipeline_calls import SHAPE, pipe_kwargs
from toys import toy_config


@pytest.fixture(scope="session")
def pipe():
    from diffsynth_patches.tiny import build_tiny_pipeline

    pipe = build_tiny_pipeline(toy_config(), seed=1)
    # Random networks start near the identity; larger weights make every wrong row visible.
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(2)
        for module in (pipe.dit, pipe.vace):
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return pipe


@pytest.fixture(scope="session")
def mask_THW():
    """A box that moves, inside the frame of SHAPE."""
    mask = np.zeros((SHAPE["num_frames"], SHAPE["height"], SHAPE["width"]), dtype=bool)
    for t in range(len(mask)):
        mask[t, 18:40, 20 + 2 * t : 40 + 2 * t] = True
    return mask


@pytest.fixture(scope="session")
def call_kwargs(mask_THW):
    """Arguments of a short run of the fixture pipeline that returns float video."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (*mask_THW.shape, 3), dtype=np.uint8)
    return pipe_kwargs(frames, mask_THW)


@pytest.fixture
def quality(capsys):
    """Run `evaluation.py quality`: (exit code, stdout, stderr)."""
    main = load_evaluation().main

    def run(*args: object) -> tuple[int, str, str]:
        code = main(["quality", *map(str, args)])
        out, err = capsys.readouterr()
        return code, out, err

    return run
