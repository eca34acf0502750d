"""The self-test tells an exact device from one where speculation changes bits."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.compressed import CompressedCache
from engine.model import Model, Rows
from engine.selftest import self_test
from engine.state import SequenceState


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder)


def test_this_device_repeats_bits(model: Model) -> None:
    result = self_test(model)
    assert result.exactness == "bitwise"
    assert (result.rows, result.mismatches, result.state_equal) == (24, 0, True)


def test_rows_that_depend_on_their_neighbours_are_caught(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = model.decode

    def leaky(state: Any, tokens: Any, fault: Any = None) -> Rows:
        rows = sound(state, tokens, fault)
        return Rows(rows.hidden, torch.nextafter(rows.logits, torch.full_like(rows.logits, len(tokens) - 1e9)))

    monkeypatch.setattr(model, "decode", lambda *a, **k: leaky(*a, **k) if len(a[1]) > 1 else sound(*a, **k))
    result = self_test(model)
    assert result.exactness == "distribution"
    assert result.mismatches > 0


def test_equal_rows_are_not_enough(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = itertools.count()
    monkeypatch.setattr(SequenceState, "fingerprint", lambda _: str(next(marks)))
    result = self_test(model)
    assert (result.exactness, result.mismatches, result.state_equal) == ("distribution", 0, False)


def test_codes_are_tested_too_and_both_must_hold(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    coded = self_test(model, max_blocks=1, codec="k4v4")
    assert (coded.exactness, coded.rows) == ("bitwise", 24)
    both = self_test(model).and_also(coded)
    assert (both.exactness, both.rows, both.mismatches, both.state_equal) == ("bitwise", 48, 0, True)
    write = CompressedCache.write

    def hasty(self: CompressedCache, *arguments: Any, **named: Any) -> None:
        write(self, *arguments, **named)
        self.coded = self.pending

    monkeypatch.setattr(CompressedCache, "write", hasty)
    broken = self_test(model, max_blocks=1, codec="k4v4")
    assert broken.exactness == "distribution"
    assert self_test(model, max_blocks=1).and_also(broken).exactness == "distribution"


def test_a_state_that_is_folded_wrongly_is_caught(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = model.commit

    def careless(state: Any, count: int) -> None:
        sound(state, count)
        if count > 1:
            state.linear.memory = state.linear.memory * (1 + 1e-6)

    monkeypatch.setattr(model, "commit", careless)
    result = self_test(model)
    assert not result.state_equal
    assert result.exactness == "distribution"
