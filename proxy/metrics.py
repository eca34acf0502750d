"""Numbers for Prometheus: what was asked for, how fast it came, what tripped and what that led to.

Must not: cost anything while tokens are decoded (numbers are taken when a response begins, speaks first and ends), or
use a label whose values a client or a model can choose.
Invariant: everything hangs on a registry of its own, so that two servers in one process count apart.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from policies.breaker import Key, Record, bucket_name
from policies.modes import DecodeMode
from proxy.backends.base import Load
from proxy.conversation import ChatRequest
from proxy.events import Event, Failed, Finished, Started, ToolCall
from proxy.incidents import Closure, Incident, Judgement
from proxy.replays.capture import Capture

OTHER = "other"
MOST_VALUES = 64
"""Of one label; detectors can be added by whoever embeds us, so there is no list of them."""
SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)
TOKEN_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
STATES = {"closed": 0, "half_open": 1, "open": 2}


@dataclass(frozen=True, slots=True)
class Present:
    """What is so at the moment of a scrape. memory: bytes by what they hold, empty = unknown; tasks: of the event loop;
    load: of the backend, None = it does not tell."""

    in_flight: int
    ready: bool
    mode: DecodeMode
    breakers: Mapping[Key, Record]
    ceilings: Mapping[str, int]
    memory: Mapping[str, int]
    incidents_dropped: int
    tasks: int = 0
    load: Load | None = None


class Metrics:
    """Of one server. An incident sink. models: names that a request may be counted under, the configured ones."""

    def __init__(self, version: str, models: Callable[[], Iterable[str]]) -> None:
        self.registry = CollectorRegistry()
        self._models = models
        self._values: dict[str, set[str]] = {}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"specguard_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"specguard_{name}", text, labels, buckets=buckets, registry=self.registry)

        self._requests = counter("requests", "Responses, by how they ended", "api", "model", "outcome")
        self._refused = counter("refusals", "Requests that were refused before anything was generated", "kind")
        self._seconds = histogram("request_seconds", "From a request to its end", SECONDS, "api")
        self._first = histogram("ttft_seconds", "From a request to its first text, thinking or call", SECONDS, "api")
        self._each = histogram("inter_token_seconds", "Engine time per token, mean of a response", TOKEN_SECONDS)
        self._incidents = counter("incidents", "Trips of detectors", "detector", "grade", "action")
        self._culprits = counter("culprits", "Closed incidents, by who is to blame", "culprit", "certainty")
        self._fallbacks = counter("fallbacks", "Changes of the decode mode by the guard", "from", "to")
        self._starts = counter("safer_starts", "Responses begun in another mode than was wanted", "from", "to")
        self._fallback = histogram("fallback_seconds", "Time that a rewind took", SECONDS)
        self._calls = counter("tool_calls", "Tool calls: sent, refused, or sent after mending", "result")
        self._drafted = counter("draft_tokens", "Drafted tokens in finished responses", "drafter")
        self._accepted = counter("accepted_tokens", "Accepted drafts in finished responses", "drafter")
        self._filtered = counter("filtered_tokens", "Tokens that a constraint put in place of others")
        self._discarded = counter("discarded_tokens", "Tokens that rewinds threw away")
        self._prefilled = counter("prefill_tokens", "Prompt tokens that were computed")
        self._cached = counter("cached_tokens", "Prompt tokens that came from a kept prefix")
        self._decoded = counter("decode_tokens", "Tokens of finished responses")
        # memory, processor time and open files of the process, under the names that dashboards know
        ProcessCollector(registry=self.registry)
        info = Gauge("specguard_build_info", "Always 1; what runs", ["version"], registry=self.registry)
        info.labels(version).set(1)

    def show(self, present: Callable[[], Present]) -> None:
        """What is asked for at each scrape."""
        self.registry.register(_Now(present))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Body and content type, in the format that the `Accept` header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def meter(self, request: ChatRequest) -> Meter:
        """For one request, from now on."""
        model = request.model if request.model in set(self._models()) else OTHER
        return Meter(self, request.api, model)

    def refused(self, kind: str) -> None:
        self._refused.labels(kind).inc()

    def safer_start(self, wanted: DecodeMode, mode: DecodeMode) -> None:
        """An open breaker or the end of trust decided otherwise."""
        self._starts.labels(str(wanted), str(mode)).inc()

    def opened(self, incident: Incident, capture: Capture | None = None) -> None:
        detector = self._bounded("detector", incident.detector)
        self._incidents.labels(detector, incident.grade, incident.action).inc()
        if incident.mode_before != incident.mode_after:
            before, after = (self._bounded("mode", mode) for mode in (incident.mode_before, incident.mode_after))
            self._fallbacks.labels(before, after).inc()
        result = {"repair": "mended", "rewind": "refused", "end": "refused"}.get(incident.action)
        if result is not None and incident.detector.startswith("tool."):
            self._calls.labels(result).inc()

    def closed(self, closure: Closure) -> None:
        self._culprits.labels(self._bounded("culprit", str(closure.culprit)), closure.certainty).inc()
        if closure.level:
            self._fallback.observe(closure.milliseconds / 1e3)

    def judged(self, judgement: Judgement) -> None:
        """Counted when it was closed."""

    def _bounded(self, label: str, value: str) -> str:
        known = self._values.setdefault(label, set())
        if value in known or len(known) < MOST_VALUES:
            known.add(value)
            return value
        return OTHER


class Meter:
    """Of one request: sees its events pass by, and hears how it ended."""

    __slots__ = ("_api", "_metrics", "_model", "_spoke", "_started")

    def __init__(self, metrics: Metrics, api: str, model: str) -> None:
        self._metrics, self._api, self._model = metrics, api, model
        self._started = time.monotonic()
        self._spoke = False

    def saw(self, event: Event) -> None:
        """Takes an event on its way to the client."""
        metrics = self._metrics
        if isinstance(event, Started):
            metrics._prefilled.inc(event.prompt_tokens - event.cached_tokens)
            metrics._cached.inc(event.cached_tokens)
            return
        if isinstance(event, Finished):
            self._finished(event)
        elif not isinstance(event, Failed):
            if not self._spoke:
                self._spoke = True
                metrics._first.labels(self._api).observe(time.monotonic() - self._started)
            if isinstance(event, ToolCall):
                metrics._calls.labels("sent").inc()

    def ended(self, outcome: str) -> None:
        """outcome: a finish reason, `failed`, `abandoned`, or the kind of an error; see `proxy.errors`."""
        self._metrics._requests.labels(self._api, self._model, outcome).inc()
        self._metrics._seconds.labels(self._api).observe(time.monotonic() - self._started)

    def _finished(self, event: Finished) -> None:
        metrics, usage, timings = self._metrics, event.usage, event.timings
        metrics._decoded.inc(usage.completion_tokens)
        metrics._discarded.inc(usage.discarded_tokens)
        metrics._filtered.inc(usage.filtered_tokens)
        if timings.predicted_n:
            metrics._each.observe(timings.predicted_ms / 1e3 / timings.predicted_n)
        for drafter, (drafted, accepted) in event.drafts.items():
            metrics._drafted.labels(drafter).inc(drafted)
            metrics._accepted.labels(drafter).inc(accepted)


class _Now(Collector):
    """Gauges that are made when somebody looks."""

    def __init__(self, present: Callable[[], Present]) -> None:
        self._present = present

    def describe(self) -> Iterator[Metric]:
        return iter(())  # else registering would ask for the present, which there is not yet

    def collect(self) -> Iterator[Metric]:
        now = self._present()
        yield GaugeMetricFamily("specguard_in_flight_requests", "Responses in the making", now.in_flight)
        yield GaugeMetricFamily(
            "specguard_ready", "1 while requests are served, and a lane answers where there are lanes", float(now.ready)
        )
        mode = GaugeMetricFamily("specguard_engine_mode", "1 for the configured decode mode", labels=["mode"])
        mode.add_metric([str(now.mode)], 1)
        yield mode
        text = "Breakers: 0 closed, 1 half open, 2 open"
        breakers = GaugeMetricFamily("specguard_breaker_state", text, labels=["mode", "bucket"])
        for key, record in now.breakers.items():
            breakers.add_metric([key.mode, bucket_name(key.bucket)], STATES[record.state])
        yield breakers
        ceilings = GaugeMetricFamily("specguard_trust_ceiling_tokens", "Context that is trusted", labels=["mode"])
        for name, tokens in now.ceilings.items():
            ceilings.add_metric([name], tokens)
        yield ceilings
        memory = GaugeMetricFamily("specguard_memory_bytes", "Live tensors, by what they hold", labels=["part"])
        for part, size in now.memory.items():
            memory.add_metric([part], size)
        yield memory
        dropped = CounterMetricFamily("specguard_incidents_dropped", "Incident records that could not be written")
        dropped.add_metric([], now.incidents_dropped)
        yield dropped
        yield GaugeMetricFamily("specguard_tasks", "Tasks of the event loop", now.tasks)
        yield GaugeMetricFamily("specguard_python_blocks", "Memory blocks of Python objects", sys.getallocatedblocks())
        if now.load is not None:
            steps = CounterMetricFamily("specguard_engine_steps", "Decoding steps, those of each response counted")
            steps.add_metric([], now.load.steps)
            yield steps
            yield GaugeMetricFamily("specguard_running_turns", "Responses that hold a place", now.load.running)
            yield GaugeMetricFamily("specguard_waiting_requests", "Requests that wait for one", now.load.waiting)
