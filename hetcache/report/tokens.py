"""The token map of a page: classes of all tokens, and which of them each partial step computed."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetcache.core.tokens import FRAMES_PER_LATENT, TokenClasses
from hetcache.core.vocabulary import TokenPlan
from hetcache.report.viewer import jpeg_uri


def token_map(classes: TokenClasses, plans: Mapping[int, TokenPlan]) -> dict[str, Any]:
    """JSON values: `grid` [F, H, W], `labels` one digit a token (0 context, 1 margin, 2 generative), `rows` step ->
    base64 of a bit per token, most significant first, 1 = computed."""
    grid = classes.grid
    labels = classes.labels_FHW().flatten().tolist()
    return {
        "grid": [grid.frames, grid.height, grid.width],
        "labels": "".join(str(label) for label in labels),
        "rows": {str(step): pack_rows(plan) for step, plan in sorted(plans.items())},
    }


def pack_rows(plan: TokenPlan) -> str:
    """A bit for each token, set where the plan computes it, as base64."""
    computed = np.zeros(plan.num_tokens, np.uint8)
    computed[plan.rows_A.cpu().numpy()] = 1
    return base64.b64encode(np.packbits(computed).tobytes()).decode()


def latent_images(frames_THWC: NDArray[np.uint8], tokens: Mapping[str, Any]) -> list[str]:
    """A JPEG data URI for each latent frame: its last video frame (0, 4, 8, ...)."""
    num_latent = tokens["grid"][0]
    return [jpeg_uri(frames_THWC[min(FRAMES_PER_LATENT * index, len(frames_THWC) - 1)]) for index in range(num_latent)]
