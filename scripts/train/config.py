"""The shape that is trained: what changes against the committed weights' until they are replaced."""

from __future__ import annotations

from typing import Any

TRAINED: dict[str, Any] = {
    "vae_motion": True,
    "vae_width": 192,
    "vae_encoder_depth": 3,
    "vae_decoder_depth": 6,
    "vae_refine_width": 64,
    "vae_refine_depth": 2,
    "vae_features": 16,
}
