"""Exact plans of --mode hetcache: what their tables must have been measured with."""

from __future__ import annotations

from hetcache.method.config import HetCacheConfig
from hetcache.planner.tables import BY_GRID


def token_choice(config: HetCacheConfig) -> dict[str, str]:
    """How a partial step chooses its tokens, beside the budget and the margin's share, as an `Origin` has it."""
    spread = f"of {config.kmeans_clusters} clusters" if config.use_kmeans else "of no clusters"
    by = " by attention" if config.use_attention_interaction else " without attention"
    width = BY_GRID if config.margin_width is None else str(config.margin_width)
    return {"margin_width": width, "context_sample": spread + by}
