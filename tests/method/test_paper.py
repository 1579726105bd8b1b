"""The paper's own method, against slow oracles: its rule, its margin, its sample of the context."""

from __future__ import annotations

import math
import random

import pytest
import torch
from replay import SKIPPING, build, record, replay

from hetcache.core.drift import LevelRule, decision_string, plan_levels
from hetcache.core.mode import RunContext
from hetcache.core.tokens import Margin, classify
from hetcache.core.vocabulary import Branch, Compute, Schedule
from hetcache.method.paper import MODE, PaperConfig
from hetcache.method.paper_selector import PaperSelector, interaction, top_per_cluster

RULE = PaperConfig().rule()


def release_oracle(changes, delta, band=1.5, warm_up=2):
    """The release's decisions with a step index that advances and its polynomial clamped at 0."""
    letters, accumulated, computed = "", 0.0, 0
    for index, change in enumerate(changes):
        accumulated += change if index else 0.0
        is_end = index in (0, len(changes) - 1)
        if not is_end and accumulated < delta:
            letters += "R"
            continue
        is_full = is_end or computed < warm_up or accumulated >= band * delta
        letters += "F" if is_full else "P"
        computed, accumulated = computed + 1, 0.0
    return letters


@pytest.mark.parametrize("delta", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("num_steps", [2, 20, 50, 200])
def test_the_rule_is_the_releases(delta, num_steps):
    for seed in range(10):
        values = random.Random(seed)
        changes = [values.uniform(0, 0.06) for _ in range(num_steps)]
        config = PaperConfig(cache_thresh=delta)
        assert decision_string(plan_levels(changes, config.rule())) == release_oracle(changes, delta)


def test_without_the_warm_up_one_step_differs_the_second_computed_one():
    changes = [0.0] + [0.02] * 49
    ours = decision_string(plan_levels(changes, LevelRule(0.05, "paper", max_partial_run=10**9)))
    theirs = release_oracle(changes, 0.05)
    different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    assert different == [3] and (ours[3], theirs[3]) == ("P", "F")


def test_nothing_bounds_a_run_of_partial_steps():
    changes = [0.0] + [0.06] * 99
    assert decision_string(plan_levels(changes, PaperConfig(cache_thresh=0.05).rule())) == "FF" + "P" * 97 + "F"


def test_the_polynomial_decides_where_the_changes_were_measured_too():
    from hetcache.core.calibration import load_calibration

    calibration = load_calibration("tiny")
    run = Schedule(calibration.drift.timesteps, {"e0": (0.0,) + (0.05,) * 49, "e": (0.0,) * 50})
    plan = MODE.plan(run, PaperConfig(), RunContext.of(None, lambda: calibration), Branch.COND)
    changes = calibration.rescale("e0").changes(run, "e0")
    assert decision_string(plan) == release_oracle(changes, 0.05)
    assert changes != calibration.drift.changes(run)


@pytest.mark.parametrize("width", [0, 1, 2, 5])
def test_the_margin_is_a_disc_in_its_frame(width):
    from scipy.ndimage import distance_transform_edt

    mask = torch.zeros(9, 192, 256, dtype=torch.bool)
    mask[0, 60:90, 100:140] = True
    mask[5:9, 100:130, 10:60] = True
    classes = classify(mask, Margin(width, 0, True))
    labels = classes.labels_FHW()
    for frame in labels.numpy():
        inside = frame == 2
        near = (distance_transform_edt(~inside) <= width) if inside.any() else inside
        assert ((frame == 1) == (near & ~inside)).all()
    assert (labels[1] == 0).all()


def interaction_oracle(q, k, generative, num_heads):
    size = q.shape[1] // num_heads
    out = []
    for row in q.double():
        total = 0.0
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            weights = [math.exp(float(row[part] @ key[part].double()) / math.sqrt(size)) for key in k]
            total += sum(weights[g] for g in generative) / sum(weights)
        out.append(total / num_heads)
    return out


def test_interaction_is_the_share_of_attention_that_goes_to_the_edit():
    torch.manual_seed(0)
    q, k, generative = torch.randn(130, 12), torch.randn(40, 12), torch.tensor([3, 4, 17])
    found = interaction(q, k, generative, 3)
    assert found.tolist() == pytest.approx(interaction_oracle(q, k, generative.tolist(), 3), rel=1e-4)
    assert float(found.min()) > 0 and float(found.max()) < 1 and float(found.std()) > 0.01


def top_oracle(score, labels, num_clusters, num_picks):
    quota = max(num_picks // num_clusters, 1)
    ranked = sorted(range(len(score)), key=lambda i: (-score[i], i))
    first = [i for i in ranked if sum(labels[j] == labels[i] for j in ranked[: ranked.index(i)]) < quota]
    return sorted((first + [i for i in ranked if i not in first])[:num_picks])


@pytest.mark.parametrize("num_picks", [1, 3, 4, 7, 20, 60])
@pytest.mark.parametrize("num_clusters", [1, 4, 16])
def test_the_top_of_every_cluster_equals_the_oracle(num_clusters, num_picks):
    for seed in range(5):
        values = random.Random(seed)
        score = [values.choice([0.0, 0.1, values.random()]) for _ in range(60)]
        labels = [min(int(values.expovariate(1.0)), num_clusters - 1) for _ in range(60)]
        found = top_per_cluster(torch.tensor(score), torch.tensor(labels), num_clusters, num_picks)
        assert found.tolist() == top_oracle(score, labels, num_clusters, num_picks)


def test_every_cluster_has_its_quota():
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (80,))
    score = torch.rand(80) + (labels == 2) * 5.0
    picked = labels[top_per_cluster(score, labels, 4, 20)]
    assert picked.bincount(minlength=4).tolist() == [5, 5, 5, 5]


def test_between_full_steps_the_tokens_stay(mask_THW):
    classes = classify(torch.from_numpy(mask_THW), Margin(1, 0, True))
    selector = PaperSelector(classes, PaperConfig(context_ratio=0.2, margin_ratio=0.5).selection())
    torch.manual_seed(0)
    features = torch.randn(classes.num_tokens, 12)
    selector.observe(0, features, torch.randn_like(features), features, 2)
    first, second = selector.plan(1), selector.plan(2)
    assert torch.equal(first.rows_A, second.rows_A) and len(first.rows_A) == selector.num_active
    selector.observe(3, features.flip(0), torch.randn_like(features), features, 2)
    assert not torch.equal(selector.plan(4).rows_A, first.rows_A)


@pytest.mark.parametrize("off", [{"use_kmeans": False}, {"use_attention_interaction": False}])
def test_parts_of_the_evidence_can_be_left_out(mask_THW, off):
    classes = classify(torch.from_numpy(mask_THW), Margin(1, 0, True))
    for each in (off, {"use_kmeans": False, "use_attention_interaction": False}):
        selector = PaperSelector(classes, PaperConfig(context_ratio=0.2, **each).selection())
        features = torch.randn(classes.num_tokens, 12)
        selector.observe(0, features, features, features, 2)
        assert len(selector.plan(1).rows_A.unique()) == selector.num_active


@pytest.fixture(scope="module")
def recording(pipe, call_kwargs, mask_THW):
    return record(pipe, call_kwargs, mask_THW, 10)


def test_a_partial_step_of_all_tokens_is_a_full_one(recording):
    """The mode reuses HetCache's manager: the same invariant holds under its rule and selector."""
    everything = {"context_ratio": 1.0, "margin_ratio": 1.0, "cache_thresh": 1e-6, "band": 1e9}
    partial, session = replay(recording, build("hetcache_paper", recording, **everything))
    assert session.trace.decisions(Branch.COND) == "FF" + "P" * 7 + "F"
    full, _ = replay(recording, build("baseline", recording))
    for key, value in full.items():
        torch.testing.assert_close(partial[key], value, rtol=1e-4, atol=1e-4)


def test_each_branch_chooses_its_own_tokens(recording):
    make, managers = build("hetcache_paper", recording, **SKIPPING["hetcache_paper"], context_ratio=0.3), {}

    def keep(branch, schedule):
        managers[branch] = make(branch, schedule)
        return managers[branch]

    _, session = replay(recording, keep)
    partial = [i for i, r in enumerate(session.trace.of(Branch.COND)) if r.compute is Compute.PARTIAL]
    assert partial
    cond, uncond = (managers[branch].selector for branch in Branch)
    assert cond is not uncond and not managers[Branch.COND].shares_decisions
    assert not torch.equal(cond._importance_C, uncond._importance_C)
    assert len(cond.plan(partial[-1]).rows_A) == len(uncond.plan(partial[-1]).rows_A)
    assert RULE.warm_up == 2 and RULE.rule == "paper"


def test_a_warm_up_of_nothing_is_refused():
    with pytest.raises(ValueError, match="--warm-up must be at least 1"):
        PaperConfig(warm_up=0)
