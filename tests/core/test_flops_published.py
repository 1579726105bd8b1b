"""FLOPs by hand beside `hetcache.core.flops`, and where the paper's 72.60 PFLOPs most likely come from."""

from __future__ import annotations

import pytest

from hetcache.core.flops import ModelShape, block_flops, full_step_flops

VACE_1_3B = ModelShape(dim=1536, ffn_dim=8960, num_layers=30, num_vace_layers=15, text_len=512)
N_33, N_81 = 9 * 30 * 52, 21 * 30 * 52
PAPER_PFLOPS = {
    "baseline": 72.60,
    "teacache slow": 47.19,
    "teacache fast": 36.30,
    "pab": 65.02,
    "adacache": 58.17,
    "fastcache": 57.41,
    "hetcache slow": 30.68,
    "hetcache fast": 23.60,
}
"""Of the paper's table, 33 frames of 480x832, 50 steps."""


def block_by_hand(n, d, f, text):
    """Multiplications and additions of each product, term by term."""
    terms = {
        "q, k, v, o": 4 * 2 * n * d * d,
        "scores and values": 2 * 2 * n * n * d,
        "cross q, o": 2 * 2 * n * d * d,
        "cross k, v": 2 * 2 * text * d * d,
        "cross scores and values": 2 * 2 * n * text * d,
        "ffn": 2 * 2 * n * d * f,
    }
    return terms, sum(terms.values())


@pytest.mark.parametrize("num_tokens, gflop", [(N_33, 2430.51), (N_81, 9432.7)])
def test_a_block_by_hand(num_tokens, gflop):
    _, total = block_by_hand(num_tokens, 1536, 8960, 512)
    assert block_flops(VACE_1_3B, num_tokens, num_tokens) == total
    assert total / 1e9 == pytest.approx(gflop, abs=0.05)


def test_the_terms_of_a_block():
    terms, _ = block_by_hand(N_33, 1536, 8960, 512)
    assert [round(value / 1e9, 1) for value in terms.values()] == [265.0, 1211.1, 132.5, 4.8, 44.2, 772.9]


def test_a_call_and_a_run():
    call = full_step_flops(VACE_1_3B, N_33)
    assert call / 1e12 == pytest.approx(110.46, abs=0.01)
    assert call * 100 / 1e15 == pytest.approx(11.05, abs=0.005)
    assert full_step_flops(VACE_1_3B, N_81) * 100 / 1e15 == pytest.approx(42.70, abs=0.01)


def test_the_papers_total_is_one_block_before_the_patches_30_times_100():
    block = block_flops(VACE_1_3B, N_33 * 4, N_33 * 4)
    assert block / 1e12 == pytest.approx(24.24, abs=0.01)
    run = block * 30 * 100 / 1e15
    assert run == pytest.approx(72.72, abs=0.01)
    assert abs(run / PAPER_PFLOPS["baseline"] - 1) < 0.002
    assert round(block / 1e12, 1) * 30 * 100 / 1e3 == pytest.approx(PAPER_PFLOPS["baseline"])


def test_its_teacache_rows_are_whole_shares_of_it_as_if_a_skipped_step_cost_nothing():
    shares = {name: value / PAPER_PFLOPS["baseline"] for name, value in PAPER_PFLOPS.items()}
    assert shares["teacache fast"] == pytest.approx(0.50, abs=1e-9)
    assert shares["teacache slow"] == pytest.approx(0.65, abs=1e-9)


@pytest.mark.parametrize(
    "what, num_tokens, num_blocks", [("patches", N_33, 30), ("patches, with VACE", N_33, 45), ("81 frames", N_81, 30)]
)
def test_other_natural_settings_do_not_fit(what, num_tokens, num_blocks):
    run = block_flops(VACE_1_3B, num_tokens, num_tokens) * num_blocks * 100 / 1e15
    assert abs(run / PAPER_PFLOPS["baseline"] - 1) > 0.1, what
