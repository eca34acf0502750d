"""Numbers of lanes for Prometheus: drift, acceptance, and whether a server is poisoned.

Must not: ask a server; it tells what is known. Invariant: labels are lanes, buckets and words of ours alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from policies.breaker import bucket_name
from proxy.lanes.watch import PLAIN_LANE, LaneWatch


class LaneGauges(Collector):
    """Made when somebody looks."""

    def __init__(self, watch: LaneWatch) -> None:
        self._watch = watch

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        watch = self._watch
        labels = ["lane", "bucket", "drawn"]
        scored = CounterMetricFamily(
            "specguard_lane_scored_tokens", "Tokens held against the plain lane", labels=labels
        )
        text = "Of these, those outside the tolerance of plain decoding"
        outside = CounterMetricFamily("specguard_lane_drift_tokens", text, labels=labels)
        for lane, figure in watch.figures.items():
            for (bucket, drawn), tally in figure.tallies.items():
                values = [lane, bucket_name(bucket), drawn]
                scored.add_metric(values, tally.tokens)
                outside.add_metric(values, tally.tokens - tally.inside)
        yield scored
        yield outside
        text = "1 where nothing is known of a lane's drift, for whatever reason: no figure is not a good one"
        unknown = GaugeMetricFamily("specguard_lane_drift_unknown", text, labels=["lane"])
        for each in watch.lanes:
            if each.name != PLAIN_LANE:
                unknown.add_metric([each.name], float(each.name in watch.drift_unknown))
        yield unknown
        text = "Accepted share of a lane's drafts of late, as it tells itself; absent while too little is drafted"
        acceptance = GaugeMetricFamily("specguard_lane_acceptance", text, labels=["lane"])
        for each in watch.lanes:
            if (found := watch.acceptance(each.name)) is not None:
                acceptance.add_metric([each.name], found.rate)
        yield acceptance
        text = "1 for a server that says one token and nothing else; absent where it was not asked"
        poisoned = GaugeMetricFamily("specguard_lane_poisoned", text, labels=["lane"])
        for lane, verdict in watch.poison.last.items():
            if verdict.state != "unknown":
                poisoned.add_metric([lane], float(verdict.state == "poisoned"))
        yield poisoned
