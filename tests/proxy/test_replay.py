"""Incidents of the real engine are judged by themselves, each with the layer that its planted fault is in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import pytest_asyncio

from detectors.finding import Grade
from detectors.settings import DEFAULT
from policies.modes import DecodeMode
from proxy.backends.base import Delta, Preempted, Rerun, RewindReport
from proxy.backends.builtin import BuiltinBackend
from proxy.capture import Capture
from proxy.conversation import ChatRequest, Demands
from proxy.incidents import Closure, Judgement
from proxy.replay import MAX_BYTES, MAX_PREEMPTED, MAX_REMEMBERED, AutomaticReplay, AutomaticSettings, trouble_of
from proxy.replay_runs import Limits
from proxy.sinks import Sinks
from tests.proxy.played import Sink, play
from tests.proxy.reruns import AT_ONCE, FAST, guarded, judged, poison, seeded, started, turns
from tests.proxy.scripted import Script, ScriptedBackend

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
