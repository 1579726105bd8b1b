"""The tokens of a partial step as HetCache's paper describes them: per cluster those that attend most to the edit.

Nothing rotates: between two full steps every partial step computes the same tokens.
"""

from __future__ import annotations

import torch

from hetcache.method.kmeans import kmeans
from hetcache.method.sampling import even_sample
from hetcache.method.selector import TokenSelector

QUERIES_AT_ONCE = 64


def interaction(q_CD: torch.Tensor, k_ND: torch.Tensor, generative_G: torch.Tensor, num_heads: int) -> torch.Tensor:
    """How much of each of C queries' attention goes to the generative keys: float32 [C] between 0 and 1.

    Softmax over *all* keys, averaged over heads; the release takes it over the generative keys alone, which gives 1 for
    every token. q and k are one sample's, after norm and RoPE, heads not yet split.
    """
    head_dim = q_CD.shape[1] // num_heads
    k_HEN = k_ND.float().view(-1, num_heads, head_dim).permute(1, 2, 0)
    shares = []
    for q_cD in q_CD.split(QUERIES_AT_ONCE):
        q_HcE = q_cD.float().view(-1, num_heads, head_dim).transpose(0, 1)
        weights_HcN = torch.softmax(q_HcE @ k_HEN * head_dim**-0.5, dim=-1)
        shares.append(weights_HcN.index_select(2, generative_G).sum(dim=2).mean(dim=0))
    return torch.cat(shares)


def top_per_cluster(score_C: torch.Tensor, labels_C: torch.Tensor, num_clusters: int, num_picks: int) -> torch.Tensor:
    """Positions int64 [num_picks] ascending: an equal quota of every cluster by score, what small clusters leave over
    by score from all. With fewer picks than clusters, the best of each cluster compete. Ties go to the first."""
    order_C = torch.argsort(score_C, descending=True, stable=True)
    members_KC = labels_C[order_C] == torch.arange(num_clusters, device=score_C.device).unsqueeze(1)
    rank_C = (members_KC.cumsum(dim=1) * members_KC).sum(dim=0) - 1
    beyond_quota_C = (rank_C >= max(num_picks // num_clusters, 1)).to(torch.uint8)
    chosen_C = torch.argsort(beyond_quota_C, stable=True)[:num_picks]
    return order_C[chosen_C].sort().values


class PaperSelector(TokenSelector):
    """One branch's own selection."""

    def observe(
        self, step_index: int, features_ND: torch.Tensor, q_ND: torch.Tensor, k_ND: torch.Tensor, num_heads: int
    ) -> None:
        config, classes = self.config, self.classes
        self._evidence_step = step_index
        if config.use_kmeans:
            self._labels_C = kmeans(features_ND[classes.context_C], config.kmeans_clusters)
        if config.use_attention_interaction and len(classes.generative_G):
            self._importance_C = interaction(q_ND[classes.context_C], k_ND, classes.generative_G, num_heads)

    def margin_picks(self) -> torch.Tensor:
        """Evenly spaced, the same at every step."""
        margin_M = self.classes.margin_M
        return even_sample(len(margin_M), self.num_margin, 0, margin_M.device)

    def context_picks(self, num_context: int) -> torch.Tensor:
        context_C = self.classes.context_C
        if self._labels_C is None and self._importance_C is None:
            return even_sample(len(context_C), num_context, 0, context_C.device)
        labels_C = torch.zeros_like(context_C) if self._labels_C is None else self._labels_C
        score_C = torch.zeros(len(context_C), device=context_C.device)
        num_clusters = 1 if self._labels_C is None else self.config.kmeans_clusters
        return top_per_cluster(
            score_C if self._importance_C is None else self._importance_C, labels_C, num_clusters, num_context
        )
