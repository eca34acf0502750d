"""The official Python SDKs against a live server: a file is written by a call, and a fallback is not noticed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.incidents import Record
from tests.clients.part import CONTENT, FAULTS, NAME, REPORT, SAYS, TASK, Fault, Part
from tests.clients.sdk_agents import AGENTS, Job, Turn
from tests.clients.stage import Visitors
from tests.proxy.live import STRING, serving
from tests.proxy.scripted import ScriptedBackend

WAYS = [(api, stream) for api in AGENTS for stream in (True, False)]
PARAMETERS = {"type": "object", "properties": {"file_path": STRING, "content": STRING}, "required": ["file_path"]}
TOOL = {"name": "write_file", "description": "Writes a file.", "parameters": PARAMETERS}


@dataclass(frozen=True, slots=True)
class Done:
    turns: Sequence[Turn]
    files: Mapping[str, str]
    asked: Sequence[str]
    incidents: Sequence[Record]


def left_in(folder: Path) -> dict[str, str]:
    """Takes the files away, for the next run."""
    files = {path.name: path.read_text() for path in folder.iterdir()}
    for name in files:
        (folder / name).unlink()
    return files


async def perform(api: str, stream: bool, fault: Fault, folder: Path) -> Done:
    def write(name: str, arguments: Mapping[str, Any]) -> str:
        assert name == "write_file"
        Path(arguments["file_path"]).write_text(arguments["content"])
        return "written"

    visitors, backend = Visitors(), ScriptedBackend(answer=Part(folder, fault))
    async with serving(backend, outermost=visitors.middleware(), breaker={"canary_tokens": 0}) as live:
        tools = [{"type": "function", "function": TOOL}]
        turns = await AGENTS[api](live, Job("scripted", "You write files.", TASK, tools, write, stream))
        await live.idle()
        return Done(turns, left_in(folder), visitors.asked, await live.incidents())


@pytest.mark.parametrize(("api", "stream"), WAYS)
async def test_a_tool_round_trip_leaves_a_file(api: str, stream: bool, tmp_path: Path) -> None:
    done = await perform(api, stream, "none", tmp_path)
    assert done.files == {NAME: CONTENT}
    first, last = done.turns
    assert (first.text.strip(), [name for name, _ in first.calls]) == (SAYS, ["write_file"])
    assert (last.text, last.calls) == (REPORT, ())
    assert len(done.asked) == 2
    assert done.incidents == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("api", "stream"), WAYS)
async def test_a_fallback_in_mid_response_is_not_noticed(api: str, stream: bool, fault: Fault, tmp_path: Path) -> None:
    clean = await perform(api, stream, "none", tmp_path)
    done = await perform(api, stream, fault, tmp_path)
    (incident,) = done.incidents
    assert (incident.opened["action"], incident.opened["mode_after"]) == ("rewind", "plain")
    assert incident.opened["rewound_to"] > 0, "the response had not begun"
    assert (done.turns, done.files, done.asked) == (clean.turns, clean.files, clean.asked)
