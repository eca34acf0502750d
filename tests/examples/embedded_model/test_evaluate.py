"""The measurement: what counts as repaired, as a valid call and as an accepted draft, on scripted models."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from examples.agent import protocol
from examples.agent.workspace import Workspace
from examples.embedded_model import evaluate
from examples.embedded_model.evaluate import Counting, Incidents, Score, run_task, write_files
from examples.embedded_model.evaluate import evaluate as measure
from examples.embedded_model.tasks import Task
from policies.modes import PLAIN, DecodeMode
from proxy.backends.base import Token
from proxy.conversation import ChatRequest
from proxy.events import ToolCall
from tests.proxy.scripted import FAST, Script, ScriptedBackend, call_text


def repair_scripts(task: Task) -> list[str]:
    edit = call_text("edit_file", path=task.module, old_string=task.old, new_string=task.new)
    return [call_text("read_file", path=task.module), edit, call_text("run_tests"), "Fixed."]


def measured(monkeypatch: pytest.MonkeyPatch, tasks: list[Task], *scripts: Script | str, mode: Any = PLAIN) -> Score:
    backend = ScriptedBackend(*scripts)
    monkeypatch.setattr(evaluate, "BuiltinBackend", lambda folder, audit_every: backend)
    score = asyncio.run(measure(None, tasks, mode))
    assert not backend.running
    return score


def test_figures_are_shares() -> None:
    score = Score(
        tasks=8,
        repaired=6,
        calls=30,
        invalid=10,
        tokens=500,
        verified=40,
        first=30,
        drafted=100,
        accepted=55,
        seconds=4,
    )
    assert score.figures() == {
        "repaired": 0.75,
        "valid_calls": 0.75,
        "first_draft_acceptance": 0.75,
        "draft_acceptance": 0.55,
        "tokens_per_second": 125.0,
    }


def test_figures_of_nothing_are_zero() -> None:
    assert set(Score().figures().values()) == {0.0}


def test_a_repair_counts(monkeypatch: pytest.MonkeyPatch, training_tasks: list[Task]) -> None:
    task = training_tasks[0]
    score = measured(monkeypatch, [task], *repair_scripts(task))
    assert (score.tasks, score.repaired, score.turns, score.calls, score.invalid) == (1, 1, 4, 3, 0)
    assert score.failed == []
    assert score.tokens > 20
    assert score.seconds > 0
    assert (score.verified, score.drafted) == (0, 0)


def test_saying_so_is_no_repair(monkeypatch: pytest.MonkeyPatch, training_tasks: list[Task]) -> None:
    task = training_tasks[1]
    score = measured(monkeypatch, [task], "Fixed. All tests pass.")
    assert (score.tasks, score.repaired, score.turns, score.calls) == (1, 0, 1, 0)
    assert score.failed == [f"{task.combination}: {task.old!r} should be {task.new!r}"]


def test_spoiling_the_tests_is_no_repair(monkeypatch: pytest.MonkeyPatch, training_tasks: list[Task]) -> None:
    task = training_tasks[2]
    tests = f"test_{task.module}"
    emptied = "def test_nothing():\n    pass"
    cheat = call_text("edit_file", path=tests, old_string=task.files[tests].rstrip("\n"), new_string=emptied)
    score = measured(monkeypatch, [task], cheat, call_text("run_tests"), "Done.")
    assert (score.calls, score.repaired) == (2, 0)


def test_a_call_that_was_not_declared_is_invalid(monkeypatch: pytest.MonkeyPatch, training_tasks: list[Task]) -> None:
    score = measured(monkeypatch, [training_tasks[3]], call_text("delete_file", path="x.py"))
    assert score.calls == 0
    assert score.invalid >= 1
    assert score.figures()["valid_calls"] == 0.0


def test_a_model_that_never_stops_is_stopped(monkeypatch: pytest.MonkeyPatch, training_tasks: list[Task]) -> None:
    monkeypatch.setattr(evaluate, "MAX_TURNS", 3)
    score = measured(monkeypatch, [training_tasks[4]], call_text("read_file", path="no.py"))
    assert (score.turns, score.calls, score.repaired) == (3, 3, 0)


def test_drafts_are_counted_by_verify_step(monkeypatch: pytest.MonkeyPatch, training_tasks: list[Task]) -> None:
    """The scripted engine drafts three tokens in each step and has all but the last step's accepted."""
    text = " ".join(["word"] * 10) + "."
    score = measured(monkeypatch, [training_tasks[5]], Script(text, width=4), mode=FAST)
    tokens = len([piece for piece in text.replace(" ", "").split("word") if piece]) + 10
    assert score.tokens == tokens == 11
    assert (score.verified, score.first, score.drafted, score.accepted) == (3, 3, 9, 8)
    assert score.figures()["first_draft_acceptance"] == 1.0


async def test_a_step_whose_first_draft_is_rejected_counts_as_such() -> None:
    score = Score()
    backend = Counting(ScriptedBackend(Script("one two", width=1)), score)
    request = ChatRequest("t", "scripted", (), ())
    generation = await backend.generate(request, FAST)
    while await generation.next() is not None:
        pass
    assert (score.verified, score.first) == (0, 0), "width 1 drafts nothing"
    backend = Counting(ScriptedBackend(Script("abcdefghi", width=2)), score)
    generation = await backend.generate(request, FAST)
    pieces: list[Token] = []
    while (delta := await generation.next()) is not None:
        pieces += delta.tokens
    assert "".join(token.text for token in pieces) == "abcdefghi"
    assert (score.verified, score.first, score.drafted, score.accepted) == (2, 1, 2, 1)
    assert backend.info.id == "scripted"
    assert await backend.count_tokens((), ()) == 0


def test_only_faults_in_calls_are_invalid_calls() -> None:
    score = Score()
    sink = Incidents(score)
    for detector in ("tool.schema", "tool.markup", "drift.logits", "loop"):
        incident: Any = type("Opened", (), {"detector": detector})()
        sink.opened(incident, "prompt")
    assert score.invalid == 2


async def test_the_model_is_told_what_the_agent_tells(training_tasks: list[Task]) -> None:
    task = training_tasks[6]
    backend = ScriptedBackend(*repair_scripts(task))
    run = await run_task(backend, task, PLAIN, Incidents(Score()))
    assert run.repaired
    opening = protocol.first_message(sorted(task.files), task.test_output)
    assert [m.text for m in backend.requests[0].messages] == [protocol.SYSTEM_PROMPT, opening]
    last = backend.requests[-1].messages
    assert [m.role for m in last] == ["system", "user", *["assistant", "tool"] * 3]
    assert last[3].text == protocol.file_text(task.files[task.module])
    assert last[5].text == protocol.edited(task.module)
    assert last[7].text.endswith(" passed")
    assert [m.call_id for m in last if m.role == "tool"] == ["call_0"] * 3
    assert [event.name for event in run.events if isinstance(event, ToolCall)] == [
        "read_file",
        "edit_file",
        "run_tests",
    ]
    assert run.ids


def test_tests_pass_only_when_they_are_the_tasks_own(training_tasks: list[Task], tmp_path: Path) -> None:
    task = training_tasks[7]
    write_files(tmp_path, task)
    workspace = Workspace(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == task.files
    assert not evaluate.tests_pass(workspace, task)
    (tmp_path / task.module).write_text(task.fixed)
    assert evaluate.tests_pass(workspace, task)
    tests = tmp_path / f"test_{task.module}"
    tests.write_text(tests.read_text() + "\n")
    assert not evaluate.tests_pass(workspace, task)


def test_the_command_prints_figures_and_writes_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, held_out_tasks: list[Task]
) -> None:
    file = tmp_path / "score.json"
    monkeypatch.setattr("sys.argv", ["evaluate", "--tasks", "1", "--first", "9", "--json", str(file)])
    backend = ScriptedBackend(*repair_scripts(held_out_tasks[9]))
    monkeypatch.setattr(evaluate, "BuiltinBackend", lambda folder, audit_every: backend)
    evaluate.main()
    written = json.loads(file.read_text())
    assert (written["repaired"], written["tasks"], written["valid_calls"]) == (1.0, 1, 1.0)
    out, err = capsys.readouterr()
    assert "repaired                 1.000" in out
    assert "turns 4, calls 3, invalid 0" in out
    assert "1/1 tasks, 1 repaired" in err


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 100_000])
def test_the_embedded_model_keeps_its_bars(first: int) -> None:
    """On held-out tasks and the real engine; the model card has the figures. 8 minutes for both on 2 cores."""
    tasks = [evaluate.make_task(first + i, held_out=True) for i in range(100)]
    plain = asyncio.run(measure(None, tasks, PLAIN)).figures()
    assert plain["repaired"] >= 0.80
    assert plain["valid_calls"] >= 0.99
    drafted = asyncio.run(measure(None, tasks[:25], DecodeMode.parse("mtp"))).figures()
    assert drafted["first_draft_acceptance"] >= 0.70
