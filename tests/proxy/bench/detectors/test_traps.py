"""Traps repeat, and are what they are called."""

from __future__ import annotations

import json
import zlib

import pytest

from proxy.bench.detectors.traps import TRAPS, made


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_long_and_repeats(name: str) -> None:
    text = made(name, 1)
    assert 1_000 < len(text) < 40_000
    assert len(zlib.compress(text.encode())) < 0.6 * len(text.encode())
    assert text == made(name, 1) != made(name, 2)


def test_a_lockfile_is_json() -> None:
    assert len(json.loads(made("lockfile", 1))["packages"]) >= 20


def test_a_rewritten_file_is_there_twice() -> None:
    text = made("file rewritten", 1)
    first, second = text.split("\n\n\n")
    assert sum(a == b for a, b in zip(first.splitlines(), second.splitlines(), strict=True)) >= 80
