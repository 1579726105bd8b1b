from __future__ import annotations

import pytest

from hetcache.core.decisions import decision_words, parse_decisions
from hetcache.core.vocabulary import Compute
from hetcache.files import UserError


def test_a_plan_in_words_is_read_as_it_was_written():
    words = "F,R0x2,P0.05,Rx3,R1,P,P0.2x2,F"
    decisions = parse_decisions(words)
    assert decision_words(decisions) == words
    assert "".join(d.compute.value for d in decisions) == "FRRPRRRRPPPF"
    assert [d.order for d in decisions[1:3]] == [0, 0] and decisions[7].order == 1
    assert [d.context_ratio for d in decisions if d.compute is Compute.PARTIAL] == [0.05, None, 0.2, 0.2]
    assert parse_decisions("F R0 R0\nP") == parse_decisions("F,R0x2,P")


@pytest.mark.parametrize(
    "words, said",
    [
        ("R,F", "first step is computed in full"),
        ("F,R3", "'R3' is no decision"),
        ("F,P1.5", "between 0 and 1"),
        ("F,Fx0", "'Fx0' is no decision"),
        ("", "'' is no decision"),
    ],
)
def test_what_is_no_plan_is_refused_in_a_line(words, said):
    with pytest.raises(UserError, match=said) as caught:
        parse_decisions(words)
    assert "\n" not in str(caught.value)
