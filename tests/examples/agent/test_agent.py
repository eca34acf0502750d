"""The agent's loop against a scripted server: a whole repair, broken calls, limits, what it sends."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from examples.agent.agent import Watcher, is_green, repair
from examples.agent.client import ChatClient
from examples.agent.screen import Screen
from examples.agent.transcript import Transcript
from examples.agent.workspace import Workspace
from tests.examples.agent.scripted_server import ScriptedServer, call_chunks, end_chunks, text_chunks


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "total.py").write_text("def total(a, b):\n    return a - b\n")
    (tmp_path / "test_total.py").write_text(
        "from total import total\n\n\ndef test_total():\n    assert total(2, 3) == 5\n"
    )
    return tmp_path


def call(name: str, **arguments: str) -> list[Any]:
    return call_chunks(0, name, json.dumps(arguments)) + end_chunks("tool_calls")


REPAIR = (
    call("read_file", path="total.py"),
    text_chunks("Wrong ", "operator.")
    + call("edit_file", path="total.py", old_string="return a - b", new_string="return a + b"),
    call("run_tests"),
    text_chunks("Fixed.") + end_chunks("stop"),
)


async def work(server: ScriptedServer, repository: Path, watcher: Watcher | None = None, **options: Any) -> Transcript:
    async with server.run() as url, ChatClient(url, "scripted") as client:
        return await repair(client, Workspace(repository), watcher or Watcher(), **options)


async def test_repairs_until_green(repository: Path) -> None:
    server = ScriptedServer(*REPAIR)
    transcript = await work(server, repository)
    assert (transcript.finished, transcript.tests_green) == (True, True)
    assert "a + b" in (repository / "total.py").read_text()
    assert [[c.name for c in turn.calls] for turn in transcript.turns] == [
        ["read_file"],
        ["edit_file"],
        ["run_tests"],
        [],
    ]
    assert transcript.turns[2].results == ["1 passed"]


async def test_history_is_resent_unchanged(repository: Path) -> None:
    server = ScriptedServer(*REPAIR)
    await work(server, repository)
    for earlier, later in zip(server.requests, server.requests[1:], strict=False):
        assert later["messages"][: len(earlier["messages"])] == earlier["messages"]
    last = server.requests[-1]["messages"]
    assert [message["role"] for message in last] == ["system", "user", *["assistant", "tool"] * 3]
    assert last[4]["content"] == "Wrong operator."
    assert last[4]["tool_calls"][0]["id"] == last[5]["tool_call_id"]
    assert "FAIL test_total" in last[1]["content"]


async def test_broken_calls_become_results(repository: Path) -> None:
    server = ScriptedServer(
        call_chunks(0, "read_file", '{"path": ') + end_chunks("tool_calls"),
        call_chunks(0, "read_file", "[1]") + end_chunks("tool_calls"),
        call("delete_everything"),
        call("read_file", path="../secret.py"),
        end_chunks("stop"),
    )
    transcript = await work(server, repository)
    assert all(turn.results[0].startswith("error") for turn in transcript.turns[:-1])
    assert transcript.tests_green is False


async def test_stops_at_the_turn_limit(repository: Path) -> None:
    transcript = await work(ScriptedServer(*[call("run_tests")] * 3), repository, max_turns=3)
    assert (len(transcript.turns), transcript.finished) == (3, False)


async def test_own_task_and_sampling(repository: Path) -> None:
    server = ScriptedServer(end_chunks("stop"))
    await work(server, repository, task="Say hello.", temperature=0.8, seed=7)
    request = server.requests[0]
    assert request["messages"][1] == {"role": "user", "content": "Say hello."}
    assert (request["temperature"], request["seed"]) == (0.8, 7)


async def test_screen_shows_work_as_plain_lines(repository: Path) -> None:
    out = io.StringIO()
    extension = {"token_ids": [1, 2], "mode": "plain", "incidents": ["inc_7"]}
    answers = [*REPAIR[:-1], text_chunks("[bold]Fixed.") + end_chunks("stop", specguard=extension)]
    await work(ScriptedServer(*answers), repository, Screen(Console(file=out, width=100)))
    shown = out.getvalue()
    for expected in (
        "Wrong operator.",
        "> edit_file total.py",
        "- return a - b",
        "+ return a + b",
        "1 passed",
    ):
        assert expected in shown
    assert "[bold]Fixed." in shown, "model text is never markup"
    assert "inc_7" in shown and "mode plain" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("output", "green"),
    [("3 passed", True), ("0 passed", False), ("1 failed, 2 passed", False), ("error: no tests", False)],
)
def test_green_means_all_passed(output: str, green: bool) -> None:
    assert is_green(output) is green
