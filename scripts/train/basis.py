"""The latents of a new autoencoder turned to look like an older one's, so that the older denoiser can go on with them.

An invertible map of the channels changes nothing of what an autoencoder reconstructs: the encoder's last layers apply
it, the decoder's first layers undo it. The map gives the new latents the covariance of the old ones and, within that,
brings them as near to the old ones as it can.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffsynth_patches.tiny.autoencoder import TinyAutoencoder


def matching_map(new_NC: Tensor, old_NC: Tensor) -> Tensor:
    """M [C, C] such that the latents M x have the covariance of the old ones y and the least mean (M x - y)^2 then.

    With covariances X and Y: M = Y^1/2 Q X^-1/2, and Q is the rotation nearest to Y^1/2 E[y x^T] X^-1/2.
    """
    x, y = ((rows - rows.mean(0)).double() for rows in (new_NC, old_NC))
    spread_x, spread_y = x.T @ x / len(x), y.T @ y / len(y)
    root_y, whiten_x = _power(spread_y, 0.5), _power(spread_x, -0.5)
    left, _, right = torch.linalg.svd(root_y @ (y.T @ x / len(x)) @ whiten_x)
    return root_y @ (left @ right) @ whiten_x


def explained(map_CC: Tensor, new_NC: Tensor, old_NC: Tensor) -> Tensor:
    """Per channel of the old latents, the share of the variance that the mapped new ones explain."""
    x, y = ((rows - rows.mean(0)).double() for rows in (new_NC, old_NC))
    return 1 - (x @ map_CC.T - y).square().mean(0) / y.square().mean(0)


@torch.no_grad()
def change_basis(vae: TinyAutoencoder, map_CC: Tensor) -> None:
    """Maps the latents of `vae` in place; what it reconstructs stays the same up to rounding."""
    back_CC = torch.linalg.inv(map_CC)
    for layer in (vae.encoder.linear, vae.encoder.head):
        layer.weight.copy_(_times(map_CC, layer.weight))
        _bias(layer).copy_(map_CC @ _bias(layer).double())
    vae.mean.copy_(map_CC @ vae.mean.double())
    for layer in (vae.decoder.linear, vae.decoder.stem):
        layer.weight.copy_((layer.weight.double().flatten(1) @ back_CC).view_as(layer.weight))


def _times(map_CC: Tensor, weight_OIHW: Tensor) -> Tensor:
    return (map_CC @ weight_OIHW.double().flatten(1)).view_as(weight_OIHW)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _power(spread_CC: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(spread_CC)
    return vectors * values.clamp_min(1e-12).pow(exponent) @ vectors.T
