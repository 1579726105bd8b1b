"""TokenSelector: the token plan of each partial step, shared by both CFG branches of a video.

Sharing is deliberate: guidance multiplies the difference of the branches, so a token that is fresh in one and
stale in the other would be amplified. The evidence comes from the branch that runs first, the conditional one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hetcache.core.tokens import TokenClasses
from hetcache.core.vocabulary import TokenPlan
from hetcache.method.kmeans import kmeans
from hetcache.method.sampling import attention_mass, even_sample, sample_context, sample_size


@dataclass(frozen=True)
class SelectionConfig:
    """How many margin and context tokens a partial step computes, and by what evidence they are chosen.
    `planned_ratios` are the shares of the context in a plan that gives its steps their own."""

    context_ratio: float
    margin_ratio: float
    use_kmeans: bool
    kmeans_clusters: int
    use_attention_interaction: bool
    planned_ratios: tuple[float, ...] = ()


class TokenSelector:
    """Builds one `TokenPlan` per partial step; a step asked for twice (by both branches) is built once."""

    def __init__(self, classes: TokenClasses, config: SelectionConfig) -> None:
        self.classes = classes
        self.config = config
        self._labels_C: torch.Tensor | None = None
        self._importance_C: torch.Tensor | None = None
        self._evidence_step = -1
        self._planned: tuple[int, float | None] | None = None
        self._plan: TokenPlan | None = None
        self._run_index = 0

    @property
    def num_margin(self) -> int:
        return sample_size(self.config.margin_ratio, len(self.classes.margin_M))

    @property
    def num_active(self) -> int:
        """|A| of a partial step with the config's share of context tokens, known before the run."""
        return self.count_active()

    def count_active(self, context_ratio: float | None = None) -> int:
        """|A| of a partial step with that share of context tokens, None: the config's."""
        classes = self.classes
        marked = len(classes.reference_R) + len(classes.generative_G)
        return marked + self.num_margin + self.count_context(context_ratio)

    def count_context(self, context_ratio: float | None = None) -> int:
        ratio = self.config.context_ratio if context_ratio is None else context_ratio
        return sample_size(ratio, len(self.classes.context_C))

    def wants_evidence(self, step_index: int) -> bool:
        """True once per full step, for the first branch that asks, while sampling context is to be done."""
        counts = map(self.count_context, self.config.planned_ratios or (self.config.context_ratio,))
        is_sampled = any(0 < count < len(self.classes.context_C) for count in counts)
        return is_sampled and step_index > self._evidence_step

    def observe(
        self, step_index: int, features_ND: torch.Tensor, q_ND: torch.Tensor, k_ND: torch.Tensor, num_heads: int
    ) -> None:
        """Refresh the sampling evidence at a full step from the last layer: `features_ND` are the hidden states
        that leave the stack, q and k those of its self-attention (one sample)."""
        config, classes = self.config, self.classes
        self._evidence_step = step_index
        if config.use_kmeans:
            self._labels_C = kmeans(features_ND[classes.context_C], config.kmeans_clusters)
        if config.use_attention_interaction and len(classes.generative_G):
            mass_N = attention_mass(q_ND[classes.generative_G], k_ND, num_heads)
            self._importance_C = mass_N[classes.context_C]

    def plan(self, step_index: int, context_ratio: float | None = None) -> TokenPlan:
        """The tokens of this partial step: all generative, a rotating sample of margin and of context, and all of
        reference images. With `context_kv` sampled, what is not computed is not attended to either, and an edit that
        loses sight of its reference at some steps follows it no more."""
        if self._plan is not None and self._planned == (step_index, context_ratio):
            return self._plan
        classes = self.classes
        num_context = self.count_context(context_ratio)
        margin = classes.margin_M[self.margin_picks()]
        context = classes.context_C[self.context_picks(num_context)]
        reference = classes.reference_R.to(classes.context_C.device)
        rows_A = torch.cat([reference, classes.generative_G, margin, context]).sort().values
        self._plan = TokenPlan(
            rows_A,
            classes.num_tokens,
            len(classes.generative_G),
            self.num_margin,
            num_context,
            len(classes.reference_R),
        )
        self._planned = step_index, context_ratio
        self._run_index += 1
        return self._plan

    def margin_picks(self) -> torch.Tensor:
        """Positions among the margin's tokens, int64 [num_margin] ascending."""
        margin_M = self.classes.margin_M
        return even_sample(len(margin_M), self.num_margin, self._run_index, margin_M.device)

    def context_picks(self, num_context: int) -> torch.Tensor:
        """Positions among the context's tokens, int64 [num_context] ascending."""
        classes = self.classes
        return sample_context(
            num_context,
            classes.context_C // (classes.grid.height * classes.grid.width),
            self._labels_C,
            self._importance_C,
            self.config.kmeans_clusters,
            self._run_index,
        )
