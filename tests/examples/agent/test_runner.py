"""The test runner as the agent starts it: what it reports, and tested code that prints, leaves or returns much."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.agent import runner


def report(folder: Path, **files: str) -> dict[str, Any]:
    """Writes modules and runs the runner as a script, isolated, as the workspace does."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-I", "-B", str(runner.__file__), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1, "one line, whatever the tested code prints"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_passed_and_failed_tests_of_all_files_in_order(tmp_path: Path) -> None:
    found = report(
        tmp_path,
        test_b="def test_two():\n    assert 1 == 2\n\n\ndef test_three():\n    pass\n",
        test_a="def test_one():\n    assert [1] + [2] == [1]\n",
        other="def test_not_collected():\n    assert False\n",
    )
    assert found == {
        "failures": [["test_one", "assert [1] + [2] == [1]", "got [1, 2]"], ["test_two", "assert 1 == 2", "got 1"]],
        "passed": 1,
    }


def test_what_happened_is_told_for_each_kind_of_failure(tmp_path: Path) -> None:
    text = """
from shop import fee, missing_value

def test_value():
    assert fee(2) == 5

def test_truth():
    assert not fee(2)

def test_exception():
    assert missing_value({}) == 1

def test_in_a_helper():
    check(fee(2))

def check(value):
    assert value == 9

def test_raised_here():
    raise ValueError("no")
"""
    found = report(
        tmp_path,
        shop="def fee(n):\n    return n * 2\n\n\ndef missing_value(t):\n    return t['x']\n",
        test_shop=text,
    )
    assert found["failures"] == [
        ["test_value", "assert fee(2) == 5", "got 4"],
        ["test_truth", "assert not fee(2)", "got False"],
        ["test_exception", "assert missing_value({}) == 1", "KeyError: 'x'"],
        ["test_in_a_helper", "assert value == 9", "got 4"],
        ["test_raised_here", 'raise ValueError("no")', "ValueError: no"],
    ]
    assert found["passed"] == 0


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("def broken(:\n", "SyntaxError: "),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
    ],
)
def test_a_module_that_cannot_be_imported_is_a_failure(tmp_path: Path, code: str, outcome: str) -> None:
    tests = "import shop\n\n\ndef test_shop():\n    pass\n"
    found = report(tmp_path, shop=code, test_shop=tests, test_sound="def test_sound():\n    pass\n")
    assert found["passed"] == 1
    [(name, statement, happened)] = found["failures"]
    assert (name, statement) == ("test_shop", "(import)")
    assert happened.startswith(outcome)


def test_a_test_that_exits_is_a_failure_and_the_others_run(tmp_path: Path) -> None:
    tests = "import sys\n\n\ndef test_exit():\n    sys.exit(0)\n\n\ndef test_after():\n    assert True\n"
    assert report(tmp_path, test_exit=tests) == {
        "failures": [["test_exit", "sys.exit(0)", "SystemExit: 0"]],
        "passed": 1,
    }


def test_a_value_that_exits_when_it_is_asked_again_is_a_failure(tmp_path: Path) -> None:
    tests = (
        "import sys\nasked = []\n\n\ndef value():\n    asked.append(1)\n    return len(asked) < 2 or sys.exit(1)\n\n\n"
        "def test_value():\n    assert value() == 7\n"
    )
    found = report(tmp_path, test_value=tests)
    assert found["failures"] == [["test_value", "assert value() == 7", "got SystemExit"]]


@pytest.mark.parametrize(
    "statement",
    [
        "print('x' * 2_000_000)",
        "print('no newline', end='')",
        'print(\'{"failures": [], "passed": 99}\')',
        "print('\\ud800')",
        "sys.stdout.buffer.write(b'\\xff')",
    ],
)
def test_what_the_tested_code_prints_does_not_reach_the_report(tmp_path: Path, statement: str) -> None:
    tests = f"import sys\n{statement}\n\n\ndef test_it():\n    {statement}\n    assert 1 == 2\n"
    assert report(tmp_path, test_it=tests) == {"failures": [["test_it", "assert 1 == 2", "got 1"]], "passed": 0}


def test_long_values_are_cut(tmp_path: Path) -> None:
    found = report(tmp_path, test_long="def test_long():\n    assert list(range(100_000)) == []\n")
    [(_, _, outcome)] = found["failures"]
    assert outcome == f"got {list(range(1000))!r}"[: runner.MAX_CHARS]


def test_endless_recursion_is_a_failure(tmp_path: Path) -> None:
    code = "def deep(n):\n    return deep(n + 1)\n"
    tests = "from shop import deep\n\n\ndef test_deep():\n    assert deep(0) == 1\n"
    [(name, statement, outcome)] = report(tmp_path, shop=code, test_deep=tests)["failures"]
    assert (name, statement) == ("test_deep", "assert deep(0) == 1")
    assert outcome.startswith("RecursionError: ")


def test_a_module_may_be_called_like_one_of_the_standard_library(tmp_path: Path) -> None:
    """The training tasks' words include some: a runner that had imported them would test the wrong module."""
    names = ("token", "queue", "signal", "record", "session", "cache", "code", "statistics")
    for name in names:
        (tmp_path / f"{name}.py").write_text("def answer():\n    return 42\n")
    tests = "".join(f"from {n} import answer as {n}_answer\n" for n in names)
    tests += "\n\ndef test_all():\n" + "".join(f"    assert {n}_answer() == 42\n" for n in names)
    assert report(tmp_path, test_all=tests) == {"failures": [], "passed": 1}


def test_in_process_and_as_a_script_the_outcome_is_the_same(tmp_path: Path) -> None:
    tests = "def test_a():\n    assert 2 - 3 == 5\n\n\ndef test_b():\n    assert [][0] == 1\n\n\nname = 'test_c'\n"
    namespace: dict[str, Any] = {}
    exec(compile(tests, "in process", "exec"), namespace)
    failures, passed = runner.run_namespace(namespace, tests, "in process")
    assert {"failures": [list(f) for f in failures], "passed": passed} == report(tmp_path, test_all=tests)
