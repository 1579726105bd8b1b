"""The autoencoder: its contract, and the motion that it finds and undoes."""

import pytest
import torch
import torch.nn.functional as F
from toys import toy_config

from diffsynth_patches.tiny import build_tiny_pipeline
from diffsynth_patches.tiny.autoencoder import PATCH_VALUES, TinyAutoencoder
from diffsynth_patches.tiny.motion import inverse, lucas_kanade, to_pixels, warp

SMALL = toy_config(num_layers=2, ffn_dim=64, vace_layers=(0,), text_dim=16, freq_dim=32)


def texture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Detail of two sizes, as pictures have it."""
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = (torch.randn(1, 1, height // size, width // size, generator=generator) for size in (8, 4))
    parts = [F.interpolate(noise, size=(height, width), mode="bicubic") for noise in (coarse, fine)]
    return (0.5 * parts[0] + 0.15 * parts[1]).clamp(-1, 1)


def shifted(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    flow = torch.tensor([x, y]).view(1, 2, 1, 1).expand(1, 2, *image.shape[2:])
    return warp(image, flow)


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.5, -0.5), (-4.0, 3.0), (7.0, 0.0)])
def test_lucas_kanade_finds_a_shift(x, y):
    source = texture(96, 128)
    flow = lucas_kanade(shifted(source, x, y), source)[:, :, 2:-2, 2:-2]
    assert flow.shape == (1, 2, 8, 12)
    assert (flow - torch.tensor([x, y]).view(1, 2, 1, 1)).abs().mean() < 0.15


def test_flat_frames_do_not_move():
    flat = torch.full((1, 1, 32, 48), 0.3)
    assert not lucas_kanade(flat, flat).any()


def test_inverse_undoes_a_flow():
    flow = torch.stack([texture(12, 16)[0, 0], texture(12, 16, 1)[0, 0]])[None] * 3
    flow = F.avg_pool2d(flow, 3, 1, 1)
    back = inverse(flow, iterations=20)
    assert (back + warp(flow, back / 8)).abs().max() < 1e-3


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 16), (5, 32, 48), (9, 24, 40)])
def test_shapes(frames, height, width):
    vae = build_tiny_pipeline(SMALL).vae
    video = torch.rand(2, 3, frames, height, width) * 2 - 1
    latents = vae.encode(video, "cpu")
    assert latents.shape == (2, 16, 1 + (frames - 1) // 4, height // 8, width // 8)
    decoded = vae.decode(latents, "cpu", tiled=True, tile_size=(30, 52), tile_stride=(15, 26))
    assert decoded.shape == video.shape
    assert decoded.abs().max() <= 1
    assert torch.allclose(vae.encode(video[1:], "cpu"), latents[1:], atol=1e-4)
    assert torch.allclose(vae.encode([video[0], video[1]], device="cpu", tiled=False), latents, atol=1e-5)


def test_attributes():
    vae = build_tiny_pipeline(SMALL).vae
    assert (vae.z_dim, vae.model.z_dim, vae.upsampling_factor) == (16, 16, 8)


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 16), (1, 3, 5, 12, 16), (1, 3, 5, 16, 20)])
def test_sizes_that_do_not_divide_are_refused(shape):
    with pytest.raises(ValueError, match="4k \\+ 1"):
        build_tiny_pipeline(SMALL).vae.encode(torch.zeros(shape), "cpu")


def test_half_precision_stays_half():
    vae = build_tiny_pipeline(SMALL, dtype=torch.bfloat16).vae
    latents = vae.encode(torch.zeros(1, 3, 5, 16, 16, dtype=torch.bfloat16), "cpu")
    assert latents.dtype == vae.decode(latents, "cpu").dtype == torch.bfloat16


def test_a_moving_group_is_aligned_to_its_second_frame():
    scene = texture(64, 96).expand(1, 3, 64, 96)
    frames = [shifted(scene, 2.0 * t, 0.0)[0] for t in range(5)]
    video = torch.stack(frames, dim=1)[None]
    model = TinyAutoencoder(width=8, encoder_depth=1, decoder_depth=1, refine_width=8, features=2)
    patches = model.align(video)[1:, :PATCH_VALUES].view(3, 4, 64, 8, 12)[..., 2:-2, 3:-3]
    spread = (patches - patches[:, 1:2]).square().mean().sqrt()
    still = (video[:, :, 1:] - video[:, :, 2:3])[..., 16:-16, 24:-24].square().mean().sqrt()
    assert spread < 0.25 * still
    motion = model.align(video)[1, PATCH_VALUES:].view(3, 2, 8, 12)[:, 0, 2:-2, 3:-3].mean((1, 2))
    assert torch.allclose(motion, torch.tensor([-2.0, 2.0, 4.0]), atol=0.2)


def test_decoder_moves_what_it_decodes():
    """With a linear path that hands one frame on as texture and a fixed motion, the others are its shifts."""
    model = TinyAutoencoder(width=8, encoder_depth=1, decoder_depth=1, refine_width=8, features=2)
    values = torch.zeros(2, PATCH_VALUES + 6, 4, 6)
    image = texture(32, 48)
    values[:, :PATCH_VALUES] = F.pixel_unshuffle(image.expand(2, 12, 32, 48), 8)
    values[:, PATCH_VALUES] = 3.0  # the first frame of a group fetches from three pixels to the right
    frames = model._place(values, torch.zeros(2, 24, 4, 6), 1)
    assert frames.shape == (1, 5, 3, 32, 48)
    assert torch.allclose(frames[0, 2, :1], image[0], atol=1e-6)
    assert torch.allclose(frames[0, 1, :1, :, :-3], image[0, :, :, 3:], atol=1e-5)
    fine = torch.zeros(2, 24, 4, 6)
    fine[:, :4] = 2.0  # the correction of the same frame along x, in its four quarters
    frames = model._place(values, fine, 1)
    assert torch.allclose(frames[0, 1, :1, :, :-5], image[0, :, :, 5:], atol=1e-5)


def test_upsampled_motion_of_one_vector_is_that_vector():
    assert torch.allclose(to_pixels(torch.full((1, 2, 2, 3), 1.5)), torch.full((1, 2, 16, 24), 1.5))
