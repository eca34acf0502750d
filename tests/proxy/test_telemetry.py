"""What a collector gets to see of requests, and that nobody waits for one that is not there."""

from __future__ import annotations

import asyncio
import gzip
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from proxy import telemetry
from proxy.configuration.config import Config, ConfigProblem
from proxy.incidents import IncidentStore
from proxy.server.app import create_app
from tests.proxy.live import CHAT, MESSAGES, OPENAI_TOOLS, RESPONSES, body_for, serving
from tests.proxy.scripted import FAST, Script, ScriptedBackend, call_text

pytestmark = pytest.mark.usefixtures("nothing_blocks")
SECRET = "xqzy"
"""One token of the scripted engine, so that it leaves in one piece."""
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Collector:
    """url: its endpoint. bodies: what it was sent, by path."""

    url: str = ""
    bodies: list[tuple[str, bytes]] = field(default_factory=list)

    def spans(self) -> list[Any]:
        found = [ExportTraceServiceRequest.FromString(body) for path, body in self.bodies if path == "/v1/traces"]
        return [span for each in found for r in each.resource_spans for s in r.scope_spans for span in s.spans]

    def histograms(self) -> dict[str, int]:
        """Name -> number of values."""
        return {m.name: sum(point.count for point in m.histogram.data_points) for m in self.metrics()}

    def metrics(self) -> list[Any]:
        found = [ExportMetricsServiceRequest.FromString(body) for path, body in self.bodies if path == "/v1/metrics"]
        return [m for each in found for r in each.resource_metrics for s in r.scope_metrics for m in s.metrics]


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            zipped = self.headers.get("content-encoding") == "gzip"
            collector.bodies.append((self.path, gzip.decompress(body) if zipped else body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        collector.url = f"http://127.0.0.1:{server.server_port}"
        yield collector
        server.shutdown()
        thread.join()


def plain(attributes: Any) -> dict[str, Any]:
    def value(given: Any) -> Any:
        kind = given.WhichOneof("value")
        return [value(v) for v in given.array_value.values] if kind == "array_value" else getattr(given, kind)

    return {each.key: value(each.value) for each in attributes}


async def test_a_span_for_each_request_and_its_incidents_with_it() -> None:
    backend = ScriptedBackend(Script(f"fine {SECRET}", fast=call_text("nope", path=SECRET)), Script("one two three"))
    with collecting() as collector:
        async with serving(backend, telemetry={"endpoint": f"{collector.url}/"}, replay={"automatic": False}) as live:
            said: list[Any] = [{"role": "user", "content": SECRET}]
            body = body_for(CHAT, messages=said, stream=True, tools=OPENAI_TOOLS, seed=7, temperature=0.5)
            header = f"00-{TRACE}-{PARENT}-01"
            answer = await live.ask("POST", CHAT, body, traceparent=header, x_request_id="mine", x_session_id="s1")
            assert SECRET.encode() in answer.body
            await live.post(MESSAGES)
            await live.post(RESPONSES, stream=True)
            assert (await live.post(CHAT, temperature=9)).status == 400
            assert live.service.telemetry is not None
            await asyncio.to_thread(live.service.telemetry.flush)
            assert not live.service.telemetry._running, "nothing is kept of a request that has ended"
    assert all(SECRET.encode() not in body for _, body in collector.bodies), "nothing that anybody wrote"
    spans = collector.spans()
    assert [span.name for span in spans] == ["chat scripted"] * 3
    first, second, third = (plain(span.attributes) for span in spans)
    assert (spans[0].trace_id.hex(), spans[0].parent_span_id.hex()) == (TRACE, PARENT)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "specguard",
        "gen_ai.request.model": "scripted",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.conversation.id": "s1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 9,
        "specguard.request.id": "mine",
        "specguard.mode": "plain",
    }
    assert {name: first.get(name) for name in expected} == expected
    assert first["gen_ai.response.time_to_first_chunk"] > 0
    found, closed = spans[0].events
    assert (found.name, closed.name) == ("gen_ai.guardrail.security.finding", "specguard.incident.closed")
    tripped, ended = plain(found.attributes), plain(closed.attributes)
    assert tripped["specguard.detector"] == "tool.unknown" and tripped["specguard.mode.before"] == str(FAST)
    assert ended["specguard.incident.id"] == tripped["specguard.incident.id"] and ended["specguard.outcome"]
    assert (second["specguard.api"], third["specguard.api"]) == ("anthropic.messages", "openai.responses")
    assert "error.type" not in second and not spans[1].events
    assert collector.histograms() == {telemetry.DURATION: 3, telemetry.FIRST_TOKEN: 3}


async def test_failures_are_told_as_such() -> None:
    with collecting() as collector:
        async with serving(Script("one two", fail_at=1, width=1), telemetry={"endpoint": collector.url}) as live:
            await live.post(CHAT)
        # the rest is sent when the server ends
    (span,) = collector.spans()
    assert plain(span.attributes)["error.type"] == "failed"
    assert span.status.code == 2


async def test_durations_are_counted_by_models_that_there_are() -> None:
    """A client may name any number of models; each name would be a series for ever."""
    with collecting() as collector:
        async with serving("fine", telemetry={"endpoint": collector.url}, model={"aliases": ("too",)}) as live:
            for name in ("scripted", "too", "made-up", "made-up-too"):
                await live.post(CHAT, model=name)
    (duration,) = [each for each in collector.metrics() if each.name == telemetry.DURATION]
    models = [plain(point.attributes)["gen_ai.request.model"] for point in duration.histogram.data_points]
    assert sorted(models) == ["other", "scripted", "too"]


@pytest.mark.parametrize("listens", [False, True])
async def test_nobody_waits_for_a_collector(listens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not there, and one that never answers."""
    monkeypatch.setattr(telemetry, "CLOSE_S", 0.1)
    monkeypatch.setattr(telemetry, "EXPORT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as dead:
        port = dead.getsockname()[1]
        if not listens:
            dead.close()
        async with serving("fine", telemetry={"endpoint": f"http://127.0.0.1:{port}"}) as live:
            for path in (CHAT, MESSAGES, RESPONSES):
                answer = await live.post(path, stream=True)
                assert (answer.status, answer.broken, b"fine" in answer.body) == (200, False, True)


def test_it_costs_nothing_where_it_is_off() -> None:
    code = "import sys, proxy.server.app\nassert not any(name.startswith('opentelemetry') for name in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_without_its_packages_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "proxy.telemetry")
    config = Config.model_validate({"telemetry": {"endpoint": "http://127.0.0.1:4318"}})
    with pytest.raises(ConfigProblem, match=r"telemetry\.endpoint: .* pip install 'specguard\[otel\]'"):
        create_app(config, ScriptedBackend("fine"), IncidentStore(tmp_path / "i.sqlite"))


def test_an_endpoint_is_an_address() -> None:
    with pytest.raises(ValueError, match=r"write one such as http://127\.0\.0\.1:4318"):
        Config.model_validate({"telemetry": {"endpoint": "localhost:4318"}})
