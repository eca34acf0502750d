"""The agent's command line: exit status and what it says when there is no server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.agent.__main__ import options, run
from tests.examples.agent.scripted_server import ScriptedServer, call_chunks, end_chunks


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "one.py").write_text("def one():\n    return 2\n")
    (tmp_path / "test_one.py").write_text("from one import one\n\n\ndef test_one():\n    assert one() == 1\n")
    return tmp_path


async def work(server: ScriptedServer, repository: Path) -> int:
    async with server.run() as url:
        return await run(options(["--base-url", url, "--repo", str(repository), "--plain-output"]))


async def test_green_is_zero(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit = json.dumps({"path": "one.py", "old_string": "return 2", "new_string": "return 1"})
    server = ScriptedServer(call_chunks(0, "edit_file", edit) + end_chunks("tool_calls"), end_chunks("stop"))
    assert await work(server, repository) == 0
    assert "The tests pass after 2 turns." in capsys.readouterr().out
    assert server.requests[0]["model"] == "scripted", "the first model that the server lists"


async def test_red_is_one(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await work(ScriptedServer(end_chunks("stop")), repository) == 1
    assert "do not pass" in capsys.readouterr().out


async def test_server_errors_are_two(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await work(ScriptedServer((500, {"error": {"message": "no engine"}})), repository) == 2
    assert "500: no engine" in capsys.readouterr().err
