"""Incidents of the real engine are judged by themselves, each with the layer that its planted fault is in."""

from __future__ import annotations

import pytest

from policies.modes import DecodeMode
from tests.proxy.played import Sink
from tests.proxy.reruns import FAST, judged, seeded, started, turns

CODED = DecodeMode("mtp+ngram", "k4v4")


def verdict(sink: Sink) -> tuple[str, str]:
    assert len(sink.judgements) == 1, "nothing tripped, or nothing was judged"
    judgement = sink.judgements[0]
    assert judgement.axes and judgement.method == "axes" and judgement.milliseconds > 0
    return judgement.culprit, judgement.certainty


@pytest.mark.parametrize(
    ("plant", "options", "mode", "temperature", "expected"),
    [
        ("verify-ignores-cache", {}, FAST, 0.0, ("speculation", "certain")),
        ("verify-ignores-cache", {"audit_every": 0}, FAST, 0.0, ("speculation", "certain")),
        ("verify-ignores-cache", {"audit_every": 0}, CODED, 0.8, ("speculation", "certain")),
        ("keys-scaled", {"shadow_every": 8}, FAST, 0.0, ("kv", "certain")),
        ("tile-lost", {"shadow_every": 8}, FAST, 0.0, ("kv", "certain")),
        ("values-halved", {}, CODED, 0.0, ("kv", "likely")),
        ("nan-at-position", {}, FAST, 0.0, ("model", "likely")),
    ],
)
async def test_a_planted_fault_is_found_in_its_layer(
    plant: str, options: dict[str, int], mode: DecodeMode, temperature: float, expected: tuple[str, str]
) -> None:
    async with started(plant, **options) as backend:
        sink = await judged(backend, [seeded(each, temperature, 5) for each in turns()], mode)
        assert verdict(sink) == expected
