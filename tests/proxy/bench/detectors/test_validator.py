"""The detectors' benchmark: every bar is reported, and exactly the missed ones are named. Times are not judged here."""

from __future__ import annotations

import json

import pytest

from detectors.json_stream.compiled import CompiledSchema
from proxy.bench.detectors import validator
from proxy.bench.detectors.validator import CALLS, SCHEMAS, limits


def test_every_call_is_valid_under_its_schema() -> None:
    for name, schema in SCHEMAS.items():
        compiled = CompiledSchema(schema, json.dumps(schema))
        assert compiled.validator.is_valid(CALLS[name])
        assert compiled.exactness == "exact"


def test_every_bar_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validator, "ROUNDS", 1)
    measured = {bar.name: bar.measure() for bar in limits()}
    assert len(measured) == len(limits()) == 9
    assert all(value > 0 for value in measured.values())
    assert measured["memory beside the raw bytes"] < 64
