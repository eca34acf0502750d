"""Repair tasks: red with the bug, green with the fix, one faulty line, and nothing shared with held-out tasks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from examples.agent import protocol
from examples.agent.workspace import Workspace
from examples.embedded_model.functions import KINDS
from examples.embedded_model.names import is_held_out
from examples.embedded_model.tasks import (
    HELD_OUT_SEED,
    Task,
    function_source,
    is_held_out_combination,
    make_task,
    run,
)


@pytest.fixture(scope="session")
def tasks(training_tasks: list[Task], held_out_tasks: list[Task]) -> list[Task]:
    return training_tasks + held_out_tasks


def functions(source: str) -> dict[str, str]:
    return {node.name: ast.dump(node) for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def arguments(task: Task) -> set[str]:
    return {node.arg for node in ast.walk(ast.parse(task.fixed)) if isinstance(node, ast.arg)}


def test_tests_fail_with_the_bug_and_pass_with_the_fix(tasks: list[Task]) -> None:
    for task in tasks:
        name, tests = task.module[:-3], task.files[f"test_{task.module}"]
        failures, passed = run(task.files[task.module], tests, name)
        assert failures
        assert task.test_output == protocol.summary([protocol.failure(*f) for f in failures], passed)
        assert {f[0].removesuffix("_2") for f in failures} == {f"test_{task.function}"}
        assert run(task.fixed, tests, name) == ([], len(failures) + passed)


def test_the_faulty_line_occurs_once_and_is_all_that_differs(tasks: list[Task]) -> None:
    for task in tasks:
        source = task.files[task.module]
        assert source.count(task.old) == 1
        assert source.replace(task.old, task.new) == task.fixed
        assert task.old == task.old.strip() != task.new
        assert task.old not in task.other_lines


def test_the_fault_stays_in_one_function(tasks: list[Task]) -> None:
    for task in tasks:
        faulty, fixed = functions(task.files[task.module]), functions(task.fixed)
        assert list(faulty) == list(fixed)
        assert [name for name in fixed if faulty[name] != fixed[name]] == [task.function]


def test_the_source_of_a_function_is_that_function(tasks: list[Task]) -> None:
    for task in tasks:
        source = task.files[task.module]
        for name, dump in functions(source).items():
            text = function_source(source, name)
            assert source.count(text) == 1
            assert functions(text) == {name: dump}


def test_a_seed_always_gives_the_same_task(training_tasks: list[Task], held_out_tasks: list[Task]) -> None:
    for seed in (0, 7, 31):
        assert make_task(seed) == training_tasks[seed]
        assert make_task(seed, held_out=True) == held_out_tasks[seed]
    assert len({task.files[task.module] for task in training_tasks}) == len(training_tasks)


def test_held_out_tasks_share_no_name_with_training_tasks(
    training_tasks: list[Task], held_out_tasks: list[Task]
) -> None:
    ours, theirs = set[str](), set[str]()
    for task in training_tasks:
        ours |= arguments(task) | {task.module[:-3]} | set(functions(task.fixed))
    for task in held_out_tasks:
        theirs |= arguments(task) | {task.module[:-3]} | set(functions(task.fixed))
    assert not ours & theirs
    stem = held_out_tasks[0].module[:-3]
    assert is_held_out(stem) or is_held_out(stem.removesuffix("s")) or is_held_out(stem.rsplit("_", 1)[0])


def test_held_out_tasks_share_no_combination_with_training_tasks(
    training_tasks: list[Task], held_out_tasks: list[Task]
) -> None:
    ours, theirs = ({task.combination for task in tasks} for tasks in (training_tasks, held_out_tasks))
    assert not any(map(is_held_out_combination, ours))
    assert all(map(is_held_out_combination, theirs))
    assert len(theirs) > 20


def test_held_out_tasks_share_no_seed_with_training_tasks() -> None:
    """Training counts up from a million, in steps of a hundred million for each worker."""
    assert make_task(0, held_out=True) != make_task(HELD_OUT_SEED)
    assert HELD_OUT_SEED > 1_000_000 + 8 * 100_000_000 + 10_000_000


def test_the_tasks_are_varied(training_tasks: list[Task]) -> None:
    parts = [task.combination.split("/") for task in training_tasks]
    assert len({kind for kind, _, _ in parts}) > len(KINDS) // 2
    assert {"operator", "comparison", "misspelt", "swapped_name", "constant", "return"} <= {bug for _, bug, _ in parts}
    assert {len(functions(task.fixed)) for task in training_tasks} == {1, 2, 3}


@pytest.mark.parametrize("number", range(4))
def test_the_agent_sees_the_same_outcome_on_disk(number: int, tasks: list[Task], tmp_path: Path) -> None:
    task = tasks[number * 50 + 3]
    for name, content in task.files.items():
        (tmp_path / name).write_text(content)
    workspace = Workspace(tmp_path)
    assert workspace.files() == sorted(task.files)
    assert workspace.run_tests() == task.test_output
    assert workspace.edit_file(task.module, task.old, task.new) == protocol.edited(task.module)
    assert workspace.run_tests().endswith(" passed")
    assert "failed" not in workspace.run_tests()


def test_tests_ask_for_each_function_of_the_module(tasks: list[Task]) -> None:
    for task in tasks:
        asked = set(functions(task.files[f"test_{task.module}"]))
        assert {f"test_{name}" for name in functions(task.fixed)} <= asked
        assert len(task.test_output) <= 400
