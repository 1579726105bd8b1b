"""HDR for a model that knows SDR: a tone map to what it sees, and the same curve back for what it paints.

Light is measured in units of reference white, 203 cd/m2 (BT.2408), HLG for a display of 1000 cd/m2. Up to 0.6 of it is
kept, more is rolled off so that 1000 cd/m2 becomes SDR white; colours go from BT.2020 to BT.709 and are clipped to it;
SDR has the display gamma 2.4 (BT.1886). The background of an edit never takes this way: only the edit does, back.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.media.colour import Colour

Floats = NDArray[np.float32]

WHITE_NITS = 203.0
PEAK = 1000.0 / WHITE_NITS
KNEE = 0.6
GAMMA = 2.4
_T_PEAK = (PEAK - KNEE) / (1 - KNEE)

_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)

# SMPTE ST 2084 and ARIB STD-B67.
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073


def to_sdr(signal_HWC: NDArray[np.uint16], colour: Colour) -> NDArray[np.uint8]:
    """HDR RGB [H, W, 3] uint16 as SDR RGB uint8."""
    light = _decode_table(colour.transfer)[signal_HWC]
    if colour.hdr == "HLG":
        # The OOTF: scene light becomes the light of a display of 1000 cd/m2.
        light = light * np.maximum(light @ _LUMA_2020, 1e-9)[..., None] ** np.float32(0.2) * np.float32(PEAK)
    if colour.primaries == "bt2020":
        light = light @ _TO_709.T
    light = light.clip(0, PEAK)
    t = np.maximum(light - KNEE, 0) / (1 - KNEE)
    rolled = np.where(light <= KNEE, light, KNEE + (1 - KNEE) * t * (1 + 1 / _T_PEAK) / (1 + t))
    sdr: NDArray[np.uint8] = np.rint(255 * rolled ** np.float32(1 / GAMMA)).clip(0, 255).astype(np.uint8)
    return sdr


def from_sdr(rgb_HWC: NDArray[np.uint8], colour: Colour) -> Floats:
    """SDR RGB [H, W, 3] uint8 as an HDR signal, float32 in 0..1: the inverse of to_sdr()."""
    levels = (np.arange(256, dtype=np.float32) / 255) ** np.float32(GAMMA)
    y = np.maximum(levels - KNEE, 0) / (1 - KNEE)
    light = np.where(levels <= KNEE, levels, KNEE + (1 - KNEE) * y / (1 + 1 / _T_PEAK - y))[rgb_HWC]
    if colour.primaries == "bt2020":
        light = (light @ np.linalg.inv(_TO_709).T).clip(0)
    if colour.hdr == "HLG":
        scene = light / PEAK
        luma = np.maximum(scene @ _LUMA_2020, 1e-9)[..., None]
        hlg: Floats = _hlg_encode(scene * luma ** (1 / 1.2 - 1)).astype(np.float32)
        return hlg
    power = (light * WHITE_NITS / 10_000).clip(0, 1) ** _M1
    pq: Floats = (((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2).astype(np.float32)
    return pq


@cache
def _decode_table(transfer: str) -> Floats:
    """For each 16 bit signal: its light in units of reference white (PQ), or of the scene's peak (HLG)."""
    signal = np.arange(65536) / 65535
    if transfer == "arib-std-b67":
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _C) / _A) + _B) / 12).astype(np.float32)
    power = signal ** (1 / _M2)
    nits = 10_000 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)
    return (nits / WHITE_NITS).astype(np.float32)


def _hlg_encode(scene: NDArray[Any]) -> NDArray[Any]:
    scene = scene.clip(0, 1)
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), _A * np.log(np.maximum(12 * scene - _B, 1e-9)) + _C)
