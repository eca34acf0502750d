"""Real agents against a live server: each writes a file with its own tool, and does not notice a fallback meanwhile.

The backend plays the model's part, since no small model follows prompts as long as theirs. `make test-clients` installs
the clients and runs this where nothing but loopback can be reached.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.installing import NotInstalled, place
from tests.clients.part import CONTENT, FAULTS, NAME, Fault, Part
from tests.clients.programs import CLIENTS, Client, program, steady
from tests.clients.stage import Home, Run, Visitors, run, settings
from tests.proxy.live import serving
from tests.proxy.scripted import ScriptedBackend, no_pause

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]
WINDOW = 200_000
"""Tokens: large agents shrink their history, or give up, when told of less than their prompts need."""
KEEP_ALIVE_S = 0.04
ROUTES = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
DETECTORS = {"refused": "tool.schema", "loops": "loop.period", "diverges": "drift.audit"}
DRAWN = re.compile(r"Chunk ID: \w+|Wall time: [\d.]+")
"""What Codex writes into a tool's result that differs from run to run."""
GROUPS = {client: pytest.mark.xdist_group(str(client)) for client in CLIENTS}
"""One process for each client, which keeps the run that its others are compared with."""
TRIPS = [pytest.param(client, id=str(client), marks=mark) for client, mark in GROUPS.items()]
FALLBACKS = [
    pytest.param(client, fault, id=f"{client}-{fault}", marks=mark)
    for client, mark in GROUPS.items()
    for fault in FAULTS
    if fault == "diverges" or not client.in_text  # without tools there is no call to be wrong
]
sound: dict[str, Run] = {}
"""Runs without a fault, by client; what the others are compared with."""


async def slowly() -> None:
    """So that keep-alives are sent while a call is held back, each of a client's own kind."""
    await asyncio.sleep(KEEP_ALIVE_S / 2)


async def perform(client: Client, fault: Fault, folder: Path) -> Run:
    home, visitors = Home.fresh(folder), Visitors()
    part = Part(home.work, fault, client.submits, client.in_text)
    backend = ScriptedBackend(answer=part, window=WINDOW, pace=no_pause if fault == "none" else slowly)
    # canaries would ask the backend too, and could be taken for requests of the client
    sections: dict[str, Any] = {"server": {"keepalive_s": KEEP_ALIVE_S}, "model": {"any_name": True}}
    async with serving(backend, outermost=visitors.middleware(), breaker={"canary_tokens": 0}, **sections) as live:
        printed = await settings(client.env, live.base)
        visitors.asked.clear()
        command = program(client, home, printed)
        ran = await run(command.in_shell(), home, command.environment)
        await live.idle()
        records = await live.incidents()
    told = f"\n{client} ended with {ran.status} after {visitors.asked}\n{ran.err[-3000:]}\n{ran.out[-3000:]}"
    path = home.work / NAME
    files = {NAME: path.read_text()} if path.exists() else {}
    assert (ran.status, visitors.refused, list(files)) == (0, [], [NAME]), told
    return Run(ran, client.heard(ran, home), files, sorted(visitors.asked), backend.requests, records)


def said(done: Run) -> list[Any]:
    """What the client sends back of the turns: of the model's words, its calls and their results what it kept."""
    turns = [m for request in done.requests for m in request.messages if m.role in ("assistant", "tool")]
    calls = [[(call.name, call.arguments) for call in turn.calls] for turn in turns]
    return [(turn.role, DRAWN.sub("", steady(turn.text)), call) for turn, call in zip(turns, calls, strict=True)]


@pytest.fixture
def stage(tmp_path_factory: pytest.TempPathFactory, record_property: Callable[[str, object], None]) -> Iterator[Any]:
    """Runs a client in the same folder every time; skips if there is no such client here."""

    async def played(client: Client, fault: Fault) -> Run:
        api = f"{client.api}, {client.how}" if client.how else client.api
        for name, value in {"client": client.name, "api": api, "fault": fault}.items():
            record_property(name, value)
        try:
            place(client.name)
        except NotInstalled as problem:
            pytest.skip(str(problem))
        folder = tmp_path_factory.getbasetemp() / str(client)
        if str(client) not in sound:
            sound[str(client)] = await perform(client, "none", folder)
        return sound[str(client)] if fault == "none" else await perform(client, fault, folder)

    yield played


@pytest.mark.parametrize("client", TRIPS)
async def test_a_tool_round_trip_leaves_a_file(client: Client, stage: Any) -> None:
    done: Run = await stage(client, "none")
    assert done.files == {NAME: CONTENT}
    assert done.asked == sorted([f"POST {ROUTES[client.api]}"] * client.turns + [*client.aside])
    assert done.incidents == []
    assert done.heard


@pytest.mark.parametrize(("client", "fault"), FALLBACKS)
async def test_a_fallback_in_mid_response_is_not_noticed(client: Client, fault: Fault, stage: Any) -> None:
    done: Run = await stage(client, fault)
    clean = sound[str(client)]
    (incident,) = done.incidents
    assert (incident.opened["detector"], incident.opened["action"]) == (DETECTORS[fault], "rewind")
    assert (incident.opened["mode_after"], incident.closed and incident.closed["outcome"]) == ("plain", "recovered")
    assert incident.opened["rewound_to"] > 0, "the response had not begun"
    assert done.files == clean.files
    assert done.ran.status == clean.ran.status
    assert done.asked == clean.asked, "it asked again"
    assert done.heard == clean.heard
    assert said(done) == said(clean)
