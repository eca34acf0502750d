"""The official Python SDKs and the embedded model, live: by every API a bug is repaired on disk, and a planted engine
fault is not noticed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from examples.agent import protocol
from examples.agent.agent import is_green
from examples.agent.workspace import Workspace
from proxy.backends.builtin import BuiltinBackend
from proxy.incidents import Record
from tests.clients.sdk_agents import AGENTS, Job, Turn
from tests.proxy.live import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
TASK = Path(__file__).parents[2] / "examples" / "demo" / "tasks" / "gauge"
WAYS = [(api, stream) for api in AGENTS for stream in (True, False)]


@dataclass(frozen=True, slots=True)
class Repair:
    """What an SDK heard, and what its agent left on disk."""

    turns: Sequence[Turn]
    files: dict[str, str]
    green: bool
    incidents: Sequence[Record] = ()


def broken_copy(folder: Path) -> Workspace:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(TASK, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return Workspace(folder)


def left_in(workspace: Workspace) -> dict[str, str]:
    return {name: (workspace.directory / name).read_text() for name in workspace.files()}


async def repair(ways: Sequence[tuple[str, bool]], folder: Path, mode: str, plant: str | None = None) -> list[Repair]:
    """One repair for each of `ways` (API, streamed), by one server. plant: an engine fault."""
    done = []
    backend = BuiltinBackend(plant=plant)
    async with serving(backend, decode={"mode": mode}) as live:
        for api, stream in ways:
            workspace = broken_copy(folder)
            opening = protocol.first_message(workspace.files(), workspace.run_tests())
            job = Job(backend.info.id, protocol.SYSTEM_PROMPT, opening, protocol.TOOLS, workspace.call, stream)
            before = len(await live.incidents())
            turns = await AGENTS[api](live, job)
            await live.idle()
            records = await live.incidents()
            news = records[: len(records) - before]
            done.append(Repair(turns, left_in(workspace), is_green(workspace.run_tests()), news))
    return done


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> Repair:
    """What plain decoding does."""
    (done,) = await repair([("chat", True)], tmp_path_factory.mktemp("plain") / "work", "plain")
    assert done.green
    assert done.files["gauge.py"] != (TASK / "gauge.py").read_text()
    return done


async def test_every_api_repairs_the_bug_alike(plain: Repair, tmp_path: Path) -> None:
    for way, done in zip(WAYS, await repair(WAYS, tmp_path / "work", "mtp+ngram"), strict=True):
        assert [turn.content for turn in done.turns] == [turn.content for turn in plain.turns], way
        assert (done.files, done.green, done.incidents) == (plain.files, True, []), way


@pytest.mark.parametrize("way", [*((api, True) for api in AGENTS), ("chat", False)], ids=str)
async def test_a_planted_engine_fault_is_not_noticed(way: tuple[str, bool], plain: Repair, tmp_path: Path) -> None:
    """A server for each: after the first incident it goes on without drafts."""
    (done,) = await repair([way], tmp_path / "work", "mtp+ngram", plant="verify-ignores-cache")
    assert [turn.content for turn in done.turns] == [turn.content for turn in plain.turns]
    assert (done.files, done.green) == (plain.files, True)
    assert done.incidents, "the fault was never met"
    assert {record.closed and record.closed["culprit"] for record in done.incidents} == {"speculation"}
