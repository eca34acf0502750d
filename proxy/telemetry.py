"""OpenTelemetry, where it is wanted: a span and two durations for each request, its incidents as events of the span.

Must not: be imported where `telemetry.endpoint` is empty (its packages are the extra `otel`); wait for a collector;
carry anything that a client or the model wrote, names of models and sessions apart, or a key.
Invariant: what cannot be sent is dropped; a response is never later for it.

Names are those of the GenAI semantic conventions; their own makers call them unstable, so they stand together below.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Mapping

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from proxy.conversation import ChatRequest
from proxy.events import Event, Failed, Finished, Started
from proxy.incidents import Closure, Incident, Judgement
from proxy.metrics import OTHER
from proxy.replays.capture import Capture
from proxy.versions import own_version

SEMCONV = "GenAI semantic conventions of November 2026"
OPERATION, PROVIDER = "gen_ai.operation.name", "gen_ai.provider.name"
REQUEST_MODEL, RESPONSE_MODEL = "gen_ai.request.model", "gen_ai.response.model"
DURATION, FIRST_TOKEN = "gen_ai.server.request.duration", "gen_ai.server.time_to_first_token"
FINDING = "gen_ai.guardrail.security.finding"
EVERY_MS, EXPORT_S, CLOSE_S = 5000.0, 5.0, 5.0
MOST_SPANS = 2048
"""That wait to be sent; further ones are dropped."""


class Telemetry:
    """Of one server. An incident sink. endpoint: where a collector takes OTLP over HTTP, without `/v1/...`. models: of
    which durations are counted by name; a client may write any."""

    def __init__(self, endpoint: str, models: Callable[[], Collection[str]]) -> None:
        self._models = models
        base = endpoint.rstrip("/")
        resource = Resource.create({"service.name": "specguard", "service.version": own_version()})
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        spans = OTLPSpanExporter(f"{base}/v1/traces", timeout=EXPORT_S)
        self._traces.add_span_processor(BatchSpanProcessor(spans, MOST_SPANS, EVERY_MS))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{base}/v1/metrics", timeout=EXPORT_S), EVERY_MS)
        self._metrics = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._tracer = self._traces.get_tracer("specguard", own_version())
        meter = self._metrics.get_meter("specguard", own_version())
        self._duration = meter.create_histogram(DURATION, "s", "From a request to its end")
        self._first = meter.create_histogram(FIRST_TOKEN, "s", "From a request to its first text, thinking or call")
        self._running: dict[str, RequestSpan] = {}

    def begin(self, request: ChatRequest, headers: Mapping[str, str]) -> RequestSpan:
        """For one request, from now on. headers: `traceparent` among them makes it part of that trace."""
        names = {name.lower(): value for name, value in headers.items()}
        span = self._tracer.start_span(
            f"chat {request.model}"[:200],
            TraceContextTextMapPropagator().extract(names),
            trace.SpanKind.SERVER,
            _asked(request),
        )
        made = self._running[request.request_id] = RequestSpan(self, request, span, self._counted(request))
        return made

    def _counted(self, request: ChatRequest) -> str:
        return request.model if request.model in self._models() else OTHER

    def ended(self, request: RequestSpan, labels: Mapping[str, AttributeValue], seconds: float) -> None:
        """Of `RequestSpan`."""
        if self._running.get(request.id) is request:  # a client may give the same id to two
            del self._running[request.id]
        self._duration.record(seconds, labels)
        if request.first is not None:
            self._first.record(request.first, labels)

    def opened(self, incident: Incident, capture: Capture | None = None) -> None:
        if (request := self._running.get(incident.request_id)) is not None:
            request.tripped(incident)

    def closed(self, closure: Closure) -> None:
        for request in self._running.values():
            if request.recovered(closure):
                return

    def judged(self, judgement: Judgement) -> None:
        """The request's span has ended by then."""

    def flush(self) -> None:
        """Blocks until what is there was sent, or could not be."""
        self._traces.force_flush(round(CLOSE_S * 1000))
        self._metrics.force_flush(CLOSE_S * 1000)

    async def close(self) -> None:
        """Sends what is left, but waits for a collector no longer than `CLOSE_S`."""

        def shut_down() -> None:
            self._traces.shutdown()
            self._metrics.shutdown(CLOSE_S * 1000)

        # a thread that the end of the process does not wait for: the exporter may be trying again
        thread = threading.Thread(target=shut_down, name="telemetry", daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, CLOSE_S)


class RequestSpan:
    """Sees a request's events pass by, and hears how it ended. first: seconds until something was said."""

    __slots__ = ("_counted", "_incidents", "_model", "_owner", "_span", "_started", "first", "id")

    def __init__(self, owner: Telemetry, request: ChatRequest, span: trace.Span, counted: str) -> None:
        self._counted = counted
        self._owner, self._span, self._model = owner, span, request.model[:200]
        self._started = time.monotonic()
        self._incidents: set[str] = set()
        self.id = request.request_id
        self.first: float | None = None

    def saw(self, event: Event) -> None:
        """Takes an event on its way to the client."""
        if isinstance(event, Finished):
            self._span.set_attributes(_answered(event, self._model))
        elif self.first is None and not isinstance(event, Started | Failed):
            self.first = time.monotonic() - self._started
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", self.first)

    def ended(self, outcome: str) -> None:
        """outcome: as `proxy.metrics.Meter` has it."""
        labels: dict[str, AttributeValue] = {OPERATION: "chat", PROVIDER: "specguard", REQUEST_MODEL: self._counted}
        if outcome not in ("stop", "stop_sequence", "length", "tool_calls"):
            labels["error.type"] = outcome
            self._span.set_attribute("error.type", outcome)
            if outcome != "abandoned":
                self._span.set_status(trace.StatusCode.ERROR, outcome)
        self._span.end()
        self._owner.ended(self, labels, time.monotonic() - self._started)

    def tripped(self, incident: Incident) -> None:
        """An incident was opened."""
        self._incidents.add(incident.id)
        self._span.add_event(
            FINDING,
            {
                "specguard.incident.id": incident.id,
                "specguard.detector": incident.detector,
                "specguard.grade": incident.grade,
                "specguard.action": incident.action,
                "specguard.rule": incident.rule,
                "specguard.position": incident.position,
                "specguard.mode.before": incident.mode_before,
                "specguard.mode.after": incident.mode_after,
                "specguard.tokens_rewound": incident.tokens_rewound,
            },
        )

    def recovered(self, closure: Closure) -> bool:
        """Is it one of this request's incidents? Then how it ended is told."""
        if closure.id not in self._incidents:
            return False
        attributes = {
            "specguard.incident.id": closure.id,
            "specguard.outcome": closure.outcome,
            "specguard.culprit": str(closure.culprit),
            "specguard.certainty": closure.certainty,
        }
        self._span.add_event("specguard.incident.closed", attributes)
        return True


def _asked(request: ChatRequest) -> dict[str, AttributeValue]:
    sampling = request.sampling
    known: dict[str, AttributeValue | None] = {
        OPERATION: "chat",
        PROVIDER: "specguard",
        REQUEST_MODEL: request.model[:200],
        "gen_ai.request.stream": request.stream,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k or None,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.conversation.id": request.session,
        "specguard.api": request.api,
        "specguard.request.id": request.request_id,
    }
    return {name: value for name, value in known.items() if value is not None}


def _answered(event: Finished, model: str) -> dict[str, AttributeValue]:
    usage, timings = event.usage, event.timings
    return {
        RESPONSE_MODEL: model,
        "gen_ai.response.finish_reasons": [event.reason],
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "specguard.mode": event.mode,
        "specguard.draft_tokens": timings.draft_n,
        "specguard.accepted_tokens": timings.draft_n_accepted,
        "specguard.discarded_tokens": usage.discarded_tokens,
    }
