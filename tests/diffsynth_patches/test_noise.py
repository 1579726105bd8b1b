"""Windows that overlap start from the same noise at the same time of the video."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffsynth_patches.apply import noise_from

SHAPE = (1, 16, 9, 4, 5)


class Pipe:
    """As DiffSynth's pipelines make noise."""

    def generate_noise(self, shape: tuple[int, ...], seed: int, rand_device: str = "cpu") -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator(rand_device).manual_seed(seed))


def noise_of(first: int, seed: int = 3, **kwargs: Any) -> torch.Tensor:
    pipe = Pipe()
    with noise_from(pipe, first):
        return pipe.generate_noise(SHAPE, seed=seed, **kwargs)


def test_the_first_window_has_the_noise_of_a_clip_alone() -> None:
    assert torch.equal(noise_of(0), Pipe().generate_noise(SHAPE, seed=3))


@pytest.mark.parametrize(("a", "b"), [(0, 6), (6, 12), (3, 9), (9, 17), (60, 66)])
def test_what_two_windows_share_of_the_time_they_share_of_the_noise(a: int, b: int) -> None:
    shared = 9 - (b - a)
    assert torch.equal(noise_of(a)[:, :, 9 - shared :], noise_of(b)[:, :, :shared])


def test_no_part_of_the_tape_comes_twice() -> None:
    tape = torch.cat([noise_of(first)[:, :, :3] for first in range(0, 45, 3)], dim=2)
    frames = {frame.numpy().tobytes() for frame in tape.unbind(2)}
    assert len(frames) == tape.shape[2] == 45
    assert abs(float(tape.mean())) < 0.05 and abs(float(tape.std()) - 1) < 0.05


def test_the_pipeline_is_put_back_after_an_error_too() -> None:
    pipe = Pipe()
    with pytest.raises(RuntimeError), noise_from(pipe, 4):
        raise RuntimeError
    assert vars(pipe) == {}
