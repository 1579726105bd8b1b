"""The Frechet distance between two sets of features (Heusel et al. 2017), in a form that suits few clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hetcache.metrics.errors import MetricError

MIN_CLIPS = 2
_ROUNDING = 1e-9


def frechet_distance(a_ND: NDArray[np.floating], b_MD: NDArray[np.floating]) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), C the unbiased covariances; in squared units.

    With C = X'X the trace of the root is the sum of the singular values of X_a X_b' (an N x M matrix of
    centred rows). So no D x D matrix root is taken: 2 clips give a real, finite number, and equal sets give
    0. Raises MetricError for fewer than 2 rows or different widths.
    """
    a, b = np.asarray(a_ND, np.float64), np.asarray(b_MD, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise MetricError(f"features must be [clips, width] of one width, not {a.shape} and {b.shape}")
    if min(len(a), len(b)) < MIN_CLIPS:
        raise MetricError(f"a Frechet distance needs {MIN_CLIPS} clips or more on each side, not {len(a)} and {len(b)}")
    mean_gap = a.mean(axis=0) - b.mean(axis=0)
    x = (a - a.mean(axis=0)) / np.sqrt(len(a) - 1)
    y = (b - b.mean(axis=0)) / np.sqrt(len(b) - 1)
    spread = float(np.sum(x * x) + np.sum(y * y))
    cross = float(np.linalg.svd(x @ y.T, compute_uv=False).sum())
    # The covariance term is never negative; what is left of its cancellation for equal sets is rounding.
    covariance = spread - 2.0 * cross
    if covariance < _ROUNDING * spread:
        covariance = 0.0
    return float(mean_gap @ mean_gap) + covariance


def too_few_clips(num_clips: int, width: int) -> str | None:
    """A warning when a covariance of `width` features cannot be estimated from `num_clips`, else None."""
    if num_clips > width:
        return None
    return f"{num_clips} clips for {width} features, unstable: compare only over the same clips"
