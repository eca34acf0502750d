"""Decode modes: what can be written, and that reading it back gives the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.modes import CODECS, DRAFTERS, PLAIN, DecodeMode


@given(st.builds(DecodeMode, st.sampled_from(DRAFTERS), st.sampled_from(CODECS)))
def test_a_mode_is_read_back_as_it_was_written(mode: DecodeMode) -> None:
    assert DecodeMode.parse(str(mode)) == mode


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("plain", PLAIN),
        ("mtp", DecodeMode("mtp", "full")),
        ("mtp+ngram/turboquant", DecodeMode("mtp+ngram", "k4v4")),
        ("plain/k8v8", DecodeMode("none", "k8v8")),
    ],
)
def test_short_forms(text: str, mode: DecodeMode) -> None:
    assert DecodeMode.parse(text) == mode


@pytest.mark.parametrize(("text", "part"), [("eagle", "eagle"), ("mtp/k9v9", "k9v9"), ("", "''")])
def test_what_is_unknown_is_named(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        DecodeMode.parse(text)


def test_only_drafters_speculate() -> None:
    assert DecodeMode("ngram").speculates
    assert not DecodeMode("none", "k4v4").speculates
