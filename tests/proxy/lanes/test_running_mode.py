"""The mode of a lane, from what servers say of themselves."""

from __future__ import annotations

import pytest

from proxy.lanes.capabilities import LaneCapabilities
from proxy.lanes.running_mode import running_mode
from proxy.lanes.settings import Lane


@pytest.mark.parametrize(
    ("speculation", "kv", "mode"),
    [
        (None, None, "mtp/full"),
        ("none", "auto", "plain"),
        ("ngram", "bfloat16", "ngram/full"),
        ("suffix", "fp8_e5m2", "ngram/k8v8"),
        ("qwen3_next_mtp", "turboquant_k8v4", "mtp/k8v4"),
        ("eagle3", "turboquant_4bit_nc", "mtp/k4v4"),
        ("NEXTN", "turboquant_k3v4_nc", "mtp/k3v3"),
        ("draft-mtp,ngram-mod", "q8_0/q4_0", "mtp+ngram/k8v4"),
        ("on", "q4_0/q4_0", "mtp/k4v4"),
        ("mtp", "f16/q8_0", "mtp/k8v8"),
        ("mtp", "q4_0/q8_0", "mtp/k4v4"),
        ("mtp", "of_another_kind", "mtp/k3v3"),
    ],
)
def test_as_the_server_tells(speculation: str | None, kv: str | None, mode: str) -> None:
    assert str(running_mode(Lane(), LaneCapabilities(speculation=speculation, kv=kv), fast=True)) == mode


def test_what_is_declared_counts() -> None:
    assert str(running_mode(Lane(mode="ngram/k4v4"), LaneCapabilities(speculation="mtp"), fast=True)) == "ngram/k4v4"


def test_a_plain_lane_that_does_not_tell_is_plain() -> None:
    assert str(running_mode(Lane(), LaneCapabilities(), fast=False)) == "plain"
