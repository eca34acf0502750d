"""The sandbox: what tests say, and what hostile code cannot do."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from proxy.bench_pack.sandbox import changed_lines, run_tests, same_tree, unknown_names
from proxy.bench_pack.tasks import shipped


def test_a_task_is_red_as_shipped_and_green_as_fixed() -> None:
    for task in shipped().tasks[:2]:
        red = run_tests(task.files)
        assert not red.green and red.failures and not red.trouble
        said = shipped().says
        first = said["failure"].format(
            test=red.failures[0][0], statement=red.failures[0][1], outcome=red.failures[0][2]
        )
        assert task.output == said["failed"].format(first=first, failed=len(red.failures), passed=red.passed)
        assert run_tests(task.files | {task.module: task.fixed}).green


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("open('big', 'wb').write(b'x' * (2 << 20))", "OSError"),
        ("bytearray(2 << 30)", "MemoryError"),
        ("import os\n    assert not os.environ.get('HOME')", None),
        ("import sys\n    sys.exit(0)", "SystemExit"),
    ],
)
def test_limits(code: str, outcome: str | None) -> None:
    found = run_tests({"test_it.py": f"def test_it():\n    {code}\n"})
    if outcome is None:
        assert found.green
    else:
        assert found.passed == 0 and outcome in found.failures[0][2]


def test_no_network_where_it_can_be_taken_away() -> None:
    code = (
        "def test_it():\n    import socket\n    s = socket.create_server(('127.0.0.1', 0))\n"
        "    socket.create_connection(s.getsockname(), 1)\n"
    )
    found = run_tests({"test_it.py": code})
    if found.offline:
        assert not found.green and "OSError" in found.failures[0][2]


def test_what_does_not_end_is_ended_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'while True: pass'])\nwhile True: pass\n"
    found = run_tests({"test_it.py": code}, 0.5)
    assert "longer than 0.5 s" in found.trouble and not found.green
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", ["import os\nos._exit(0)", "import os\nos.write(3, b'{')\nos._exit(1)"])
def test_who_leaves_early_has_not_passed(code: str) -> None:
    assert not run_tests({"test_it.py": code}).green


def test_names_that_are_nowhere() -> None:
    assert unknown_names("def f(a):\n    return [b for b in a if c]\n") == ("c",)
    assert unknown_names("import os.path as p\nfrom x import y\nprint(p, y, __name__)\n") == ()
    assert unknown_names("from x import *\nz\n") == ()
    assert unknown_names("def f(:\n") == ("(syntax)",)
    assert unknown_names("match x():\n    case {'a': b, **c} | [b, *c]:\n        b, c\n") == ("x",)


def test_differences() -> None:
    assert same_tree("a = 1  # one\n", "a = (1)\n") and not same_tree("a = 1", "a = 2") and not same_tree("a =", "a =")
    assert changed_lines("a\nb\nc", "a\nx\nc") == 2 and changed_lines("a", "a") == 0
