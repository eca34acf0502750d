"""Blame: what a comparison of discarded and re-decoded tokens proves, and what it does not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.blame import END_OF_TURN, PROOF_TOKENS, Blame, BlameVerdict, Culprit
from policies.modes import PLAIN, DecodeMode

MTP = DecodeMode("mtp")


def compare(
    discarded: Sequence[int],
    redecoded: Sequence[int],
    *,
    mode: DecodeMode = MTP,
    began: int = 10,
    exact: bool = True,
    recurs: bool = False,
    audited: bool = False,
) -> BlameVerdict:
    blame = Blame(mode, 10, discarded, began=began, exact=exact, audited=audited)
    for position, token in enumerate(redecoded, 10):
        blame.redecoded(position, token)
    if recurs:
        blame.recur()
    return blame.verdict()


def judged(verdict: BlameVerdict) -> tuple[Culprit, str]:
    return verdict.culprit, verdict.certainty


def test_a_difference_convicts_speculation() -> None:
    verdict = compare([1, 2, 3], [1, 7])
    assert judged(verdict) == (Culprit.SPECULATION, "certain")
    assert (verdict.first_difference, verdict.at, verdict.compared) == (11, 10, 2)
    assert (verdict.discarded, verdict.redecoded) == ((1, 2, 3), (1, 7))


def test_a_prefix_that_was_computed_again_leaves_a_doubt() -> None:
    blame = Blame(MTP, 10, [1, 2, 3], began=10, exact=True, shared=True)
    for position, token in enumerate((1, 9), 10):
        blame.redecoded(position, token)
    assert judged(blame.verdict()) == (Culprit.SPECULATION, "likely")


def test_without_bitwise_exactness_nothing_is_certain() -> None:
    assert judged(compare([1, 2], [1, 7], exact=False)) == (Culprit.SPECULATION, "likely")
    assert judged(compare([1, 2], [1, 2], exact=False)) == (Culprit.MODEL, "likely")


@pytest.mark.parametrize(
    ("mode", "culprit"),
    [
        (DecodeMode("none", "k4v4"), (Culprit.KV, "likely")),
        (DecodeMode("mtp", "k4v4"), (Culprit.UNKNOWN, "none")),
    ],
)
def test_what_was_switched_off_is_accused(mode: DecodeMode, culprit: tuple[Culprit, str]) -> None:
    assert judged(compare([1, 2], [1, 7], mode=mode)) == culprit


def test_the_same_again_is_the_model() -> None:
    assert judged(compare([1, 2], [1, 2, 3])) == (Culprit.MODEL, "certain")
    assert judged(compare([1, 2, 3, 4], [1, 2], recurs=True)) == (Culprit.MODEL, "certain")


def test_the_model_is_only_likely_if_its_lead_in_was_not_decoded_again() -> None:
    assert judged(compare([1, 2], [1, 2], began=3)) == (Culprit.MODEL, "likely")


def test_a_difference_outweighs_a_recurrence() -> None:
    assert judged(compare([1, 2], [1, 7], recurs=True)) == (Culprit.SPECULATION, "certain")


def test_nothing_compared_proves_nothing() -> None:
    assert judged(compare([1, 2], [])) == (Culprit.UNKNOWN, "none")
    assert judged(compare([], [1, 2])) == (Culprit.UNKNOWN, "none")
    assert judged(compare([1, 2, 3], [1, 2])) == (Culprit.UNKNOWN, "none")


def test_an_audit_needs_no_comparison() -> None:
    assert judged(compare([1, 2], [], audited=True)) == (Culprit.SPECULATION, "certain")


def test_ending_the_turn_is_a_difference_too() -> None:
    assert judged(compare([1, END_OF_TURN], [1, 2])) == (Culprit.SPECULATION, "certain")
    assert judged(compare([1, 2], [1, END_OF_TURN])) == (Culprit.SPECULATION, "certain")


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_proof_holds_the_difference_and_is_short(same: int, after: int) -> None:
    discarded = [*range(same), -5, *range(after)]
    verdict = compare(discarded, [*range(same), -6, *range(after)])
    assert verdict.first_difference == 10 + same
    index = verdict.first_difference - verdict.at
    assert (verdict.discarded[index], verdict.redecoded[index]) == (-5, -6)
    assert len(verdict.discarded) <= PROOF_TOKENS
    assert len(verdict.redecoded) <= PROOF_TOKENS


def test_tokens_out_of_order_are_ignored() -> None:
    blame = Blame(MTP, 10, [1, 2], began=10, exact=True)
    blame.redecoded(12, 9)
    blame.redecoded(3, 9)
    assert judged(blame.verdict()) == (Culprit.UNKNOWN, "none")


CODED = DecodeMode("mtp", "k4v4")
UNDRAFTED, RESTORED = DecodeMode("none", "k4v4"), DecodeMode("mtp", "full")


@pytest.mark.parametrize(
    ("after", "redecoded", "verdict"),
    [
        (UNDRAFTED, (1, 9), ("speculation", "certain")),
        (RESTORED, (1, 9), ("kv", "likely")),
        (PLAIN, (1, 9), ("unknown", "none")),
        (UNDRAFTED, (1, 2), ("unknown", "none")),
        (RESTORED, (1, 2), ("unknown", "none")),
        (PLAIN, (1, 2), ("model", "certain")),
    ],
)
def test_only_what_was_switched_off_can_be_convicted_or_cleared(
    after: DecodeMode, redecoded: tuple[int, ...], verdict: tuple[str, str]
) -> None:
    blame = Blame(CODED, 5, (1, 2), began=5, exact=True, after=after)
    for position, token in enumerate(redecoded, 5):
        blame.redecoded(position, token)
    assert (blame.verdict().culprit, blame.verdict().certainty) == verdict
