"""The OpenAPI document: every route and field is in it, and requests drawn from it get what it promises."""

from __future__ import annotations

import asyncio
import json
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.configuration.config import Config
from proxy.incidents import IncidentStore
from proxy.server import openapi
from proxy.server.app import create_app
from tests.proxy.live import CHAT, COUNT, MESSAGES, RESPONSES, serving
from tests.proxy.scripted import Script, ScriptedBackend, call_text

with warnings.catch_warnings():  # of its own making, while it is imported
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi import checks

ANSWER = Script(f"<think>\nhm\n</think>\n\nI look.\n{call_text('ls', path='src')}")
PROMISES = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    schemathesis.checks.not_a_server_error,
]
SCHEMA = schemathesis.openapi.from_dict(openapi.document())


async def test_it_is_served_and_holds_every_route(tmp_path: Path) -> None:
    async with serving("fine") as live:
        answer = await live.ask("GET", "/openapi.json")
        assert (answer.status, answer.json) == (200, json.loads(json.dumps(openapi.document())))
    told = {(method.upper(), path) for path, methods in answer.json["paths"].items() for method in methods}
    store = IncidentStore(tmp_path / "incidents.sqlite")
    try:
        app = create_app(Config(), ScriptedBackend(), store)
        routes = {(r.method, r.resource.canonical) for r in app.router.routes() if r.resource and r.method != "HEAD"}
    finally:
        store.close()
    assert told == routes


@pytest.mark.parametrize("path", openapi.BODIES)
def test_every_field_that_is_read_is_told(path: str) -> None:
    prefix, model, _ = openapi.BODIES[path]
    schemas = openapi.document()["components"]["schemas"]
    assert set(schemas[f"{prefix}Body"]["properties"]) == set(model.model_fields)
    assert {"speculative", "kv"} <= set(schemas[f"{prefix}Body"]["properties"])
    assert set(schemas[f"{prefix}Speculative"]["properties"]) == {"enabled", "types", "n_max"}


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(openapi.document())
    schemas = openapi.document()["components"]["schemas"]
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names
    assert names <= set(schemas)
    assert "#/$defs/" not in text


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """A server in a thread: what draws the requests calls it synchronously."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    found: list[str] = []
    done = asyncio.Event()

    async def serve() -> None:
        async with serving(ScriptedBackend(ANSWER), model={"any_name": True}) as live:
            found.append(live.base)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    yield found[0]
    loop.call_soon_threadsafe(done.set)
    thread.join(60)
    loop.close()


def _operation(path: str) -> Any:
    return SCHEMA[path]["POST"]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "unfitting"])
@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, COUNT])
def test_requests_drawn_from_it_get_what_it_promises(path: str, mode: GenerationMode, base: str) -> None:
    @given(data=st.data())
    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    def run(data: st.DataObject) -> None:
        case = data.draw(_operation(path).as_strategy(generation_mode=mode))
        case.call_and_validate(base_url=base, checks=PROMISES, timeout=60)

    run()
    assert _healthy(base)


@pytest.mark.parametrize("path", openapi.GETS)
def test_what_is_got_is_what_it_promises(path: str, base: str) -> None:
    parameters = {"model": "scripted"} if "{" in path else {}
    case = SCHEMA[path]["GET"].Case(path_parameters=parameters)
    case.call_and_validate(base_url=base, checks=PROMISES, timeout=60)


def _healthy(base: str) -> bool:
    case = SCHEMA[CHAT]["POST"].Case(body={"model": "m", "messages": [{"role": "user", "content": "go"}]})
    case.media_type = "application/json"
    return bool(case.call(base_url=base, timeout=60).status_code == 200)
