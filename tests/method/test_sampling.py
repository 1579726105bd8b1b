"""Sampling and k-means: sizes, quotas, rotation, and agreement with slow or published references."""

from __future__ import annotations

import pytest
import torch
from sklearn.cluster import KMeans

from hetcache.core.tokens import classify
from hetcache.method.kmeans import _maximin_centers, kmeans
from hetcache.method.sampling import (
    attention_mass,
    even_sample,
    inclusion_probabilities,
    sample_context,
    sample_size,
    systematic_sample,
)
from hetcache.method.selector import SelectionConfig, TokenSelector

CPU = torch.device("cpu")


def test_sample_size():
    assert [sample_size(r, 40) for r in (0.0, 0.001, 0.05, 0.7, 1.0)] == [0, 1, 2, 28, 40]
    assert sample_size(0.5, 0) == 0


@pytest.mark.parametrize("num_tokens, num_picks", [(10, 3), (97, 31), (5, 5), (1, 1), (1000, 999)])
def test_even_samples_are_evenly_spaced_and_rotate_through_all(num_tokens, num_picks):
    seen = set()
    for run_index in range(-(-num_tokens // num_picks) + 1):
        picks = even_sample(num_tokens, num_picks, run_index, CPU)
        assert len(picks) == num_picks
        assert torch.equal(picks, picks.unique())
        if num_picks > 1:
            gaps = picks.diff()
            assert gaps.max() - gaps.min() <= 1
        seen |= set(picks.tolist())
    assert seen == set(range(num_tokens))


def systematic_oracle(p, offset):
    """Walk along the line of intervals and take the token under every integer + offset."""
    picks, left, point = [], 0.0, offset
    for index, length in enumerate(p):
        if left <= point < left + length:
            picks.append(index)
            point += 1
        left += length
    return picks


@pytest.mark.parametrize("seed", range(5))
def test_systematic_sample_equals_a_walk_along_the_line(seed):
    weights = torch.rand(60, generator=torch.Generator().manual_seed(seed)) ** 4
    p = inclusion_probabilities(weights, 17)
    assert p.max() <= 1 + 1e-9
    assert abs(p.sum().item() - 17) < 1e-9
    assert systematic_sample(p, 17, 0.37).tolist() == systematic_oracle(p.tolist(), 0.37)


def test_capped_probabilities_keep_their_sum():
    p = inclusion_probabilities(torch.tensor([1e9, 1e9, 1.0, 0.0, 0.0]), 4)
    assert p[:2].tolist() == pytest.approx([1.0, 1.0])
    assert p.sum().item() == pytest.approx(4.0)


@pytest.mark.parametrize("with_kmeans", [False, True])
@pytest.mark.parametrize("with_attention", [False, True])
def test_context_sample_has_its_size_and_reaches_every_token(with_kmeans, with_attention):
    generator = torch.Generator().manual_seed(0)
    frames = torch.arange(300) // 60
    labels = torch.randint(0, 8, (300,), generator=generator) if with_kmeans else None
    importance = torch.rand(300, generator=generator) ** 6 if with_attention else None
    seen = set()
    for run_index in range(400):
        picks = sample_context(15, frames, labels, importance, 8, run_index)
        assert torch.equal(picks, picks.unique())
        assert len(picks) == 15
        seen |= set(picks.tolist())
    assert seen == set(range(300))


def test_clusters_and_frames_get_their_quota_and_attention_is_preferred():
    frames = torch.arange(400) // 100
    labels = torch.zeros(400, dtype=torch.int64)
    labels[::50] = 1  # a cluster of 8 tokens, two in each frame
    importance = torch.full((400,), 1e-6)
    importance[10::50] = 1.0
    taken = torch.zeros(400)
    for run_index in range(64):
        taken[sample_context(40, frames, labels, importance, 2, run_index)] += 1
    per_frame = taken.view(4, 100).sum(dim=1) / 64
    assert per_frame.tolist() == pytest.approx([10.0] * 4, abs=1.0)
    assert taken[labels == 1].mean() > 3 * taken[labels == 0].mean()
    assert taken[10::50].min() > 4 * taken[11::50].max()


def test_attention_mass_equals_dense_softmax():
    torch.manual_seed(0)
    q, k = torch.randn(20, 12), torch.randn(50, 12)
    dense = torch.zeros(50)
    for head in range(3):
        columns = slice(4 * head, 4 * head + 4)
        dense += torch.softmax(q[:, columns] @ k[:, columns].T / 2.0, dim=1).mean(dim=0) / 3
    mass = attention_mass(q, k, 3, max_queries=20)
    torch.testing.assert_close(mass, dense)
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-5)


def inertia(x, labels):
    return sum(((x[labels == c] - x[labels == c].mean(0)) ** 2).sum() for c in labels.unique()).item()


def test_kmeans_is_as_tight_as_scikit_learn_on_clusters_and_close_on_noise():
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(8, 16, generator=generator) * 6
    blobs = centers.repeat_interleave(50, 0) + torch.randn(400, 16, generator=generator)
    labels = kmeans(blobs, 8)
    reference = KMeans(8, n_init=10, random_state=0).fit(blobs.numpy())
    assert inertia(blobs, labels) == pytest.approx(reference.inertia_, rel=1e-4)
    noise = torch.rand(500, 4, generator=generator)
    reference = KMeans(16, n_init=10, random_state=0).fit(noise.numpy())
    assert inertia(noise, kmeans(noise, 16)) < 1.15 * reference.inertia_


def test_first_centres_are_each_the_farthest_point_from_those_before():
    """Oracle: distances taken from the differences themselves, one centre at a time."""
    x = torch.randn(300, 24, generator=torch.Generator().manual_seed(1)) * 2 + 7
    picks = [int((x - x.mean(0)).norm(dim=1).argmin())]
    while len(picks) < 12:
        picks.append(int(torch.cdist(x, x[picks]).min(dim=1).values.argmax()))
    assert torch.equal(_maximin_centers(x, 12), x[picks])


def test_kmeans_of_fewer_points_than_clusters_and_of_equal_points():
    assert kmeans(torch.randn(3, 5), 16).unique().numel() == 3
    assert kmeans(torch.ones(30, 5), 4).shape == (30,)
    with pytest.raises(ValueError, match="0 points"):
        kmeans(torch.empty(0, 5), 4)


def test_selector_plans_have_a_fixed_size_and_are_shared_by_the_branches_of_a_step():
    mask = torch.zeros(9, 96, 128, dtype=torch.bool)
    mask[:, 30:60, 40:80] = True
    selector = TokenSelector(classify(mask, 1, 0), SelectionConfig(0.2, 0.7, True, 4, True))
    assert selector.wants_evidence(0)
    torch.manual_seed(0)
    n = selector.classes.num_tokens
    selector.observe(0, torch.randn(n, 8), torch.randn(n, 8), torch.randn(n, 8), 2)
    assert not selector.wants_evidence(0)
    assert selector.wants_evidence(3)
    first, again, later = selector.plan(1), selector.plan(1), selector.plan(2)
    assert first is again
    assert first.num_active == later.num_active == selector.num_active
    assert not torch.equal(first.rows_A, later.rows_A)
    assert set(selector.classes.generative_G.tolist()) <= set(first.rows_A.tolist())
