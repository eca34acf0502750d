"""The official SDKs and two lanes of every kind of server: a file is written by a call, and a fall back is not noticed.

The openai and anthropic SDKs run here; openai-agents is run as `make test-clients` has installed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from proxy.incidents import Record
from tests.clients.installing import NotInstalled, place
from tests.clients.part import CONTENT, NAME, REPORT, SAYS, TASK
from tests.clients.programs import CLIENTS, Client, program
from tests.clients.sdk_agents import AGENTS, Job, Turn
from tests.clients.stage import Home, run, settings
from tests.clients.test_sdks import TOOL, left_in
from tests.upstreams.all_defects import DEFECTS
from tests.upstreams.dialects import KINDS, Kind
from tests.upstreams.faults import Fault
from tests.upstreams.lanes import Asked, Lane
from tests.upstreams.pool import MODEL, pool
from tests.upstreams.replies import Call, Reply, Text, Thinking

WAYS = [(api, stream) for api in AGENTS for stream in (True, False)]
FAULTS = ("arguments_empty", "arguments_loop", "error_inside_call")
"""A call that its schema refuses, one that never ends, and a server that gives up in its middle."""
FALL_BACKS = [(*way, FAULTS[0]) for way in WAYS] + [(api, True, fault) for api in AGENTS for fault in FAULTS[1:]]
SYSTEM = "You write files."


@dataclass(frozen=True, slots=True)
class Played:
    """What a model says to an agent that writes a file in `folder`. speaks: it says something before; thinks: before
    that, which is begun anew after a fall back, so that who streams may see it twice."""

    folder: Path
    speaks: bool = True
    thinks: bool = True

    def __call__(self, asked: Asked) -> Reply:
        if any(message.get("role") == "tool" for message in asked.messages):
            return Reply((Text(REPORT),))
        arguments = {"file_path": str(self.folder / NAME), "content": CONTENT}
        thinking = (Thinking("A file is wanted.\n"),) if self.thinks else ()
        said = (Text(f"{SAYS}\n"),) if self.speaks else ()
        return Reply((*thinking, *said, Call("write_file", arguments)))


def first_only(asked: Asked) -> bool:
    return not any(message.get("role") == "tool" for message in asked.messages)


def lanes(folder: Path, fault: str, speaks: bool, thinks: bool) -> tuple[Lane, Lane]:
    defects: tuple[Fault, ...] = (DEFECTS[fault].fault,) if fault else ()
    fast = Lane(Played(folder, speaks, thinks), defects, first_only, width=4, speculation="mtp")
    return fast, Lane(Played(folder, speaks, thinks))


def can_continue(kind: Kind) -> bool:
    """Behind a text that was delivered, a server that continues none can only end with an error: there, a fall back is
    not noticed where nothing was said before the call."""
    return kind != "openai"


@dataclass(frozen=True, slots=True)
class Done:
    turns: Sequence[Turn]
    files: Mapping[str, str]
    incidents: Sequence[Record]


async def perform(kind: Kind, api: str, stream: bool, fault: str, folder: Path, speaks: bool = True) -> Done:
    def write(name: str, arguments: Mapping[str, Any]) -> str:
        assert name == "write_file"
        Path(arguments["file_path"]).write_text(arguments["content"])
        return "written"

    async with pool(kind, *lanes(folder, fault, speaks, speaks), task=TASK) as running:
        tools = [{"type": "function", "function": TOOL}]
        turns = await AGENTS[api](running.live, Job(MODEL, SYSTEM, TASK, tools, write, stream))
        await running.live.idle()
        await running.left()
        # lanes count tokens each in its own way
        alike = [replace(turn, tokens=(0, 0)) for turn in turns]
        return Done(alike, left_in(folder), await running.live.incidents())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for all runs, so that they can be compared."""
    return tmp_path_factory.mktemp("work")


sound: dict[tuple[Kind, str, bool, bool], Done] = {}
"""Runs without a fault; what the others are compared with."""


async def soundly(kind: Kind, api: str, stream: bool, folder: Path, speaks: bool = True) -> Done:
    way = (kind, api, stream, speaks)
    if way not in sound:
        sound[way] = await perform(kind, api, stream, "", folder, speaks)
    return sound[way]


@pytest.mark.parametrize(("api", "stream"), WAYS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_tool_round_trip_leaves_a_file(kind: Kind, api: str, stream: bool, folder: Path) -> None:
    done = await soundly(kind, api, stream, folder)
    assert done.files == {NAME: CONTENT}
    first, last = done.turns
    assert (first.text.strip(), [name for name, _ in first.calls]) == (SAYS, ["write_file"])
    assert (last.text, last.calls) == (REPORT, ())
    assert done.incidents == []


@pytest.mark.parametrize(("api", "stream", "fault"), FALL_BACKS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_fall_back_is_not_noticed(kind: Kind, api: str, stream: bool, fault: str, folder: Path) -> None:
    clean = await soundly(kind, api, stream, folder, can_continue(kind))
    done = await perform(kind, api, stream, fault, folder, can_continue(kind))
    assert (done.turns, done.files) == (clean.turns, clean.files)
    (incident,) = done.incidents
    assert (incident.opened["action"], incident.opened["mode_after"]) == ("rewind", "plain")


AGENT = [client for client in CLIENTS if client.name == "openai-agents"]


def without_counts(value: Any) -> Any:
    """Lanes count tokens each in its own way, and say so in fields of our own."""
    if isinstance(value, dict):
        return {key: without_counts(inner) for key, inner in value.items() if key not in ("usage", "specguard")}
    return [without_counts(inner) for inner in value] if isinstance(value, list) else value


async def with_program(client: Client, kind: Kind, fault: str, folder: Path, speaks: bool) -> Any:
    home = Home.fresh(folder)
    async with pool(kind, *lanes(home.work, fault, speaks, False), task=TASK) as running:
        command = program(client, home, await settings(client.env, running.live.base))
        ran = await run(command.in_shell(), home, command.environment)
        assert ran.status == 0, ran.err[-3000:]
        await running.live.idle()
        path = home.work / NAME
        assert path.read_text() == CONTENT
        incidents = await running.live.incidents()
        assert len(incidents) == (1 if fault else 0)
        return without_counts(client.heard(ran, home))


def skip_unless_installed(client: Client) -> None:
    try:
        place(client.name)
    except NotInstalled as problem:
        pytest.skip(str(problem))


@pytest.mark.clients
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", AGENT, ids=str)
async def test_openai_agents(client: Client, kind: Kind, tmp_path: Path) -> None:
    skip_unless_installed(client)
    speaks = can_continue(kind)
    clean = await with_program(client, kind, "", tmp_path / "work", speaks)
    healed = await with_program(client, kind, "arguments_empty", tmp_path / "work", speaks)
    assert healed == clean


@pytest.mark.clients
@pytest.mark.parametrize("client", AGENT, ids=str)
async def test_openai_agents_and_a_text_that_cannot_be_continued(client: Client, tmp_path: Path) -> None:
    """The other lane continues none. Who streams was sent some: the run fails in the open, and no bad call is acted on.
    Who gets a whole response was sent nothing: the other lane begins anew, and the run succeeds."""
    skip_unless_installed(client)
    home, whole = Home.fresh(tmp_path / "work"), client.how == "whole"

    async def pace() -> None:
        await asyncio.sleep(0.05)  # so that the text has left before the call is read

    async with pool("openai", *lanes(home.work, "arguments_empty", True, False), task=TASK, pace=pace) as running:
        command = program(client, home, await settings(client.env, running.live.base))
        ran = await run(command.in_shell(), home, command.environment)
        await running.live.idle()
        incidents = await running.live.incidents()
    if whole:
        assert ran.status == 0, (ran.status, ran.err[-3000:])
        assert (home.work / NAME).read_text() == CONTENT
    else:
        assert ran.status != 0 and "continue a text" in ran.err, (ran.status, ran.err[-3000:])
        assert not (home.work / NAME).exists()
    assert incidents and {record.state for record in incidents} == {"recovered" if whole else "ended"}
