"""K-means on the features' device with a fixed number of Lloyd iterations: no host synchronisation."""

from __future__ import annotations

import torch


def kmeans(features_ND: torch.Tensor, num_clusters: int, num_iterations: int = 10) -> torch.Tensor:
    """Cluster labels int64 [N] of `features_ND` (computed in float32).

    Deterministic: the first centre is the point nearest to the mean, every further one is the point farthest
    from the centres so far (maximin), then `num_iterations` of Lloyd. A cluster that loses its points keeps its
    centre. `num_clusters` is capped at N. Raises ValueError when there is no point or no cluster.
    """
    num_points = features_ND.shape[0]
    if num_points == 0 or num_clusters < 1:
        raise ValueError(f"k-means of {num_points} points in {num_clusters} clusters")
    x_ND = features_ND.float()
    centers_KD = _maximin_centers(x_ND, min(num_clusters, num_points))
    clusters_K1 = torch.arange(len(centers_KD), device=x_ND.device).unsqueeze(1)
    for _ in range(num_iterations):
        # Products and not `index_add_`: on a GPU its order of addition is free.
        members_KN = (assign(x_ND, centers_KD) == clusters_K1).float()
        counts_K = members_KN.sum(dim=1)
        means_KD = members_KN @ x_ND / counts_K.clamp_min(1).unsqueeze(1)
        centers_KD = torch.where((counts_K > 0).unsqueeze(1), means_KD, centers_KD)
    return assign(x_ND, centers_KD)


def assign(x_ND: torch.Tensor, centers_KD: torch.Tensor) -> torch.Tensor:
    """Index of the nearest centre of each point, int64 [N]."""
    scores_NK = centers_KD.square().sum(dim=1) - 2 * (x_ND @ centers_KD.T)
    return scores_NK.argmin(dim=1)


def _maximin_centers(x_ND: torch.Tensor, num_clusters: int) -> torch.Tensor:
    # |x - c|^2 = |x|^2 - 2 x c + |c|^2 takes one product per centre; around the mean little is lost to rounding.
    mean_D = x_ND.mean(dim=0)
    offset_ND = x_ND - mean_D
    square_N = offset_ND.square().sum(dim=1)

    def distance_to(index: torch.Tensor) -> torch.Tensor:
        product_N = (offset_ND @ offset_ND.index_select(0, index).T).squeeze(1)
        return square_N - 2 * product_N + square_N.index_select(0, index)

    picks = [square_N.argmin().view(1)]
    distance_N = distance_to(picks[0])
    for _ in range(num_clusters - 1):
        picks.append(distance_N.argmax().view(1))
        distance_N = torch.minimum(distance_N, distance_to(picks[-1]))
    return x_ND.index_select(0, torch.cat(picks))
