"""The ladder: each accused has its rung, every rung is safer, and plain is the last."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ladder import is_safer, landing, safer
from policies.modes import CODECS, DRAFTERS, PLAIN, DecodeMode
from policies.rules import Accused

modes = st.builds(DecodeMode, st.sampled_from(DRAFTERS), st.sampled_from(CODECS))
accused: st.SearchStrategy[Accused] = st.sampled_from(["speculation", "kv", "unknown"])


@pytest.mark.parametrize(
    ("mode", "who", "rung"),
    [
        ("mtp+ngram/k4v4", "speculation", "none/k4v4"),
        ("mtp+ngram/k4v4", "kv", "mtp+ngram/full"),
        ("mtp+ngram/k4v4", "unknown", "plain"),
        ("mtp", "speculation", "plain"),
        ("mtp", "kv", "plain"),
        ("none/k4v4", "speculation", "plain"),
        ("none/k4v4", "kv", "plain"),
    ],
)
def test_the_rung_follows_the_accused(mode: str, who: Accused, rung: str) -> None:
    assert safer(DecodeMode.parse(mode), who) == DecodeMode.parse(rung)


@given(modes, accused, accused)
def test_every_rung_is_safer_and_two_lead_to_plain(mode: DecodeMode, first: Accused, second: Accused) -> None:
    below = safer(mode, first)
    if below is None:
        assert mode == PLAIN
        return
    assert is_safer(below, mode)
    assert safer(below, second) in (PLAIN, None)


@given(modes, modes)
def test_safer_has_a_direction(one: DecodeMode, other: DecodeMode) -> None:
    assert not (is_safer(one, other) and is_safer(other, one))
    assert not is_safer(one, one)
    assert is_safer(PLAIN, one) == (one != PLAIN)


def test_another_drafter_or_codec_is_not_safer() -> None:
    assert not is_safer(DecodeMode("ngram"), DecodeMode("mtp"))
    assert not is_safer(DecodeMode("none", "k8v8"), DecodeMode("none", "k4v4"))


@pytest.mark.parametrize(
    ("rungs", "wanted", "landed"),
    [
        ((), "none/k4v4", "none/k4v4"),
        (("mtp/k4v4", "plain"), "mtp/k4v4", "mtp/k4v4"),
        (("mtp/k4v4", "plain"), "none/k4v4", "plain"),
        (("mtp/k8v8", "none/k8v8"), "plain", "none/k8v8"),
    ],
)
def test_of_certain_rungs_the_safest_is_taken(rungs: tuple[str, ...], wanted: str, landed: str) -> None:
    assert landing(DecodeMode.parse(wanted), rungs) == DecodeMode.parse(landed)
