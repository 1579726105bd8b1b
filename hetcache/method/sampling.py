"""Which margin and context tokens a partial step computes (pure functions, fixed sizes, no synchronisation).

One primitive does the picking: systematic sampling. Tokens lie on a line, token i as an interval of length p_i
(its inclusion probability), sum p = n; the picks are the tokens under the points u, u + 1, ..., u + n - 1. The
number of picks is exactly n, equal p gives even spacing, strata that are contiguous on the line get their quota,
and moving the offset u from one partial step to the next rotates the set until every token was refreshed.
HetCache (arXiv 2603.24260, section 3.3) asks for diversity (k-means) and interaction (attention).
"""

from __future__ import annotations

import math

import torch

FIXED_POINT = 2**32
GOLDEN_FRACTION = (math.sqrt(5) - 1) / 2


def sample_size(ratio: float, num_tokens: int) -> int:
    """round(ratio * num_tokens), at least 1 when both are positive."""
    if num_tokens == 0 or ratio <= 0:
        return 0
    return min(num_tokens, max(1, round(ratio * num_tokens)))


def inclusion_probabilities(weights_N: torch.Tensor, num_picks: int) -> torch.Tensor:
    """float64 [N] with sum `num_picks`, proportional to the weights except where that would exceed 1.

    Weights that are all zero count as equal. The excess of capped tokens goes to the others in four rounds, then
    evenly to what room is left, so that the sum is exact.
    """
    p_N = weights_N.double().clamp_min(0) + 1e-12
    p_N = p_N * (num_picks / p_N.sum())
    for _ in range(4):
        capped_N = p_N.clamp_max(1.0)
        room_N = torch.where(capped_N < 1.0, capped_N, 0.0)
        missing = num_picks - capped_N.sum()
        p_N = capped_N + room_N * (missing / room_N.sum().clamp_min(1e-12))
    p_N = p_N.clamp_max(1.0)
    room_N = 1.0 - p_N
    return p_N + room_N * ((num_picks - p_N.sum()) / room_N.sum().clamp_min(1e-12))


def systematic_sample(p_N: torch.Tensor, num_picks: int, offset: float) -> torch.Tensor:
    """Positions int64 [num_picks], strictly ascending, of a systematic sample with inclusion probabilities p_N."""
    # Whole numbers, because a running sum of fractions on a GPU differs in the last bits from run to run.
    edges_N = (p_N.double() * FIXED_POINT).round().long().cumsum(0).double()
    edges_N = edges_N * (num_picks / edges_N[-1])
    points_n = torch.arange(num_picks, device=p_N.device, dtype=torch.float64) + offset % 1.0
    picks_n = torch.searchsorted(edges_N, points_n, right=True).clamp_max(p_N.shape[0] - 1)
    # Rounding at an edge may give one token twice: push each pick behind the one before it, then back inside.
    order_n = torch.arange(num_picks, device=p_N.device)
    picks_n = (picks_n - order_n).cummax(0).values + order_n
    return torch.minimum(picks_n, p_N.shape[0] - num_picks + order_n)


def rotation_offset(run_index: int, mean_probability: float) -> float:
    """Offset of the `run_index`-th sample: with equal p = 1/m every token is picked once in m samples.

    Each round of the circle starts a golden fraction of p further, so tokens of lower probability that fall
    between the points of one round are met in a later one.
    """
    travelled = run_index * mean_probability
    return (0.5 + travelled + math.floor(travelled) * GOLDEN_FRACTION * mean_probability) % 1.0


def even_sample(num_tokens: int, num_picks: int, run_index: int, device: torch.device) -> torch.Tensor:
    """Evenly spaced positions, rounded, that rotate with `run_index`; int64 [num_picks] ascending."""
    if num_picks == 0:
        return torch.empty(0, dtype=torch.int64, device=device)
    p = num_picks / num_tokens
    p_N = torch.full((num_tokens,), p, dtype=torch.float64, device=device)
    return systematic_sample(p_N, num_picks, rotation_offset(run_index, p))


def context_weights(
    num_tokens: int,
    labels_N: torch.Tensor | None,
    importance_N: torch.Tensor | None,
    num_clusters: int,
    device: torch.device,
) -> torch.Tensor:
    """Sampling weight of each context token, float64 [N].

    A cluster's quota is the mean of an equal share (diversity: small clusters are represented) and its share of
    the attention mass (interaction), or of its size when attention is off; inside a cluster half of the quota is
    spread evenly and half by attention, so that no token has weight zero and all are refreshed in time.
    """
    ones_N = torch.ones(num_tokens, dtype=torch.float64, device=device)
    mass_N = ones_N if importance_N is None else importance_N.double() / importance_N.double().mean().clamp_min(1e-30)
    if labels_N is None:
        return 0.5 * ones_N + 0.5 * mass_N

    # Products and not `index_add_`: on a GPU its order of addition is free.
    members_KN = (labels_N == torch.arange(num_clusters, device=device).unsqueeze(1)).double()

    def per_cluster(values_N: torch.Tensor) -> torch.Tensor:
        return members_KN @ values_N

    size_K, mass_K = per_cluster(ones_N), per_cluster(mass_N)
    occupied_K = (size_K > 0).double()
    quota_K = 0.5 * occupied_K / occupied_K.sum() + 0.5 * mass_K / mass_K.sum().clamp_min(1e-30)
    inside_N = 0.5 / size_K.clamp_min(1)[labels_N] + 0.5 * mass_N / mass_K.clamp_min(1e-30)[labels_N]
    return quota_K[labels_N] * inside_N


def sample_context(
    num_picks: int,
    frame_of_N: torch.Tensor,
    labels_N: torch.Tensor | None,
    importance_N: torch.Tensor | None,
    num_clusters: int,
    run_index: int,
) -> torch.Tensor:
    """Positions int64 [num_picks] (ascending) of the context tokens to compute.

    The line of the systematic sample is sorted by (latent frame, cluster, position), so that frames and clusters
    are strata and get quotas in proportion to their weights, to within one token.
    """
    num_tokens, device = frame_of_N.shape[0], frame_of_N.device
    if num_picks == 0:
        return torch.empty(0, dtype=torch.int64, device=device)
    weights_N = context_weights(num_tokens, labels_N, importance_N, num_clusters, device)
    key_N = frame_of_N if labels_N is None else frame_of_N * num_clusters + labels_N
    order_N = torch.argsort(key_N, stable=True)
    p_N = inclusion_probabilities(weights_N[order_N], num_picks)
    picks_n = systematic_sample(p_N, num_picks, rotation_offset(run_index, num_picks / num_tokens))
    return order_N[picks_n].sort().values


def attention_mass(q_GD: torch.Tensor, k_ND: torch.Tensor, num_heads: int, max_queries: int = 64) -> torch.Tensor:
    """Attention that each of N keys receives from the given queries: float32 [N], sum 1.

    Softmax over *all* keys, averaged over heads and over at most `max_queries` evenly spaced queries; memory is
    max_queries * N per head, never N * N. q and k are one sample's, after norm and RoPE, heads not yet split.
    """
    num_queries = min(max_queries, q_GD.shape[0])
    picks = even_sample(q_GD.shape[0], num_queries, 0, q_GD.device)
    head_dim = q_GD.shape[1] // num_heads
    q_HqE = q_GD[picks].float().view(num_queries, num_heads, head_dim).transpose(0, 1)
    mass_N = torch.zeros(k_ND.shape[0], device=k_ND.device)
    for head in range(num_heads):
        k_NE = k_ND[:, head * head_dim : (head + 1) * head_dim].float()
        mass_N += torch.softmax(q_HqE[head] @ k_NE.T * head_dim**-0.5, dim=-1).mean(dim=0)
    return mass_N / num_heads
