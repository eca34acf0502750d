"""Numbers of lanes for Prometheus: absent where nothing is known."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy.lanes.drift_figure import DriftFigure, Tally
from proxy.lanes.exposition import Exposition
from proxy.lanes.gauges import LaneGauges
from proxy.lanes.metrics_signal import MetricsSignal
from proxy.lanes.poison import Verdict
from proxy.lanes.watch import LaneWatch, WatchSettings
from proxy.trust.keeper import TrustKeeper
from proxy.trust.store import TrustStore
from tests.proxy.lanes.test_exposition import vllm
from tests.proxy.lanes.watched import two_lanes


async def test_what_is_known_is_shown(tmp_path: Path) -> None:
    keeper = TrustKeeper(TrustStore(tmp_path / "trust.json"))
    async with two_lanes() as (servers, _, _):
        watch = LaneWatch(servers, keeper, asyncio.Event(), asyncio.Lock(), WatchSettings(0))
    registry = CollectorRegistry()
    registry.register(LaneGauges(watch))
    assert _samples(registry) == {}
    assert watch.meter is not None
    watch.meter.figures["fast"] = figure = DriftFigure()
    figure.add(5000, "greedy", Tally(1, 40, 38))
    watch.poison.last["fast"] = Verdict("poisoned", "x")
    watch.poison.last["plain"] = Verdict("unknown", "x")
    watch.signals["fast"] = signal = MetricsSignal(servers[0].probed.target, clock=lambda: 5.0)
    signal._meter.take(0.0, Exposition.parse(vllm(0, 0)))
    signal._meter.take(5.0, Exposition.parse(vllm(200, 50)))
    assert _samples(registry) == {
        ("specguard_lane_scored_tokens_total", "fast", "4-16k", "greedy"): 40,
        ("specguard_lane_drift_tokens_total", "fast", "4-16k", "greedy"): 2,
        ("specguard_lane_acceptance", "fast"): 0.25,
        ("specguard_lane_poisoned", "fast"): 1,
    }


def _samples(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    order = ("lane", "bucket", "drawn")
    return {
        (sample.name, *(sample.labels[name] for name in order if name in sample.labels)): sample.value
        for family in families
        for sample in family.samples
    }
