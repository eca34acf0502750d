"""The sandbox: what tests say, and what hostile code cannot do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest

from proxy.bench.pack import confinement
from proxy.bench.pack.sandbox import changed_lines, run_tests, same_tree, unknown_names
from proxy.bench.pack.tasks import shipped


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
        ("open('big', 'wb').write(b'x' * (2 << 20))", "Error: [Errno "),
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
        assert not found.green and "Error: [Errno" in found.failures[0][2]


def test_what_does_not_end_is_ended_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = run_tests({"test_it.py": "while True: pass\n"}, 0.5)
    assert "longer than 0.5 s" in found.trouble and not found.green
    assert list(tmp_path.iterdir()) == []


DETACHED = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("confinement", sys.argv[1])
confinement = importlib.util.module_from_spec(spec)
spec.loader.exec_module(confinement)
confinement.alone()
if os.fork() == 0:
    os.setsid()
    os.closerange(0, 64)
    os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(20)', sys.argv[2]])
time.sleep(0.5)
"""
UNSHARED = "import ctypes; c = ctypes.CDLL(None); raise SystemExit(c.unshare(0x30020000) and c.unshare(0x20020000))"
"""Whether a process of its own may have name spaces of users, processes and mounts here."""


@pytest.fixture
def confined() -> None:
    if sys.platform != "linux" or subprocess.run([sys.executable, "-c", UNSHARED], check=False).returncode:
        pytest.skip("no name spaces here")


def test_what_has_cut_itself_loose_does_not_outlive_it(confined: None) -> None:
    mark = f"specguard-loose-{os.getpid()}"
    subprocess.run([sys.executable, "-c", DETACHED, confinement.__file__, mark], check=True)
    assert not [each for each in Path("/proc").glob("[0-9]*") if mark in _command(each)]


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_what_is_elsewhere_is_not_written(confined: None, tmp_path: Path) -> None:
    file = tmp_path / "kept"
    file.write_text("as it was", encoding="utf-8")
    for code in (f"open({str(file)!r}, 'w')", f"os.remove({str(file)!r})", f"os.chmod({str(file)!r}, 0)"):
        found = run_tests({"test_it.py": f"import os\ndef test_it():\n    {code}\n"})
        assert "Error: [Errno" in found.failures[0][2]
    assert file.read_text(encoding="utf-8") == "as it was"


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")
def test_a_flood_is_read_within_a_bound() -> None:
    """On every file that is open, also the one that the result goes to: a result behind it is none."""
    code = (
        "import os\nfor file in range(1, 16):\n    try:\n        for _ in range(4): os.write(file, b'x' * (1 << 20))\n"
        "    except OSError: pass\ndef test_it(): pass\n"
    )
    tracemalloc.start()
    try:
        assert run_tests({"test_it.py": code}).trouble == "the tests could not be run"
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("code", ["import os\nos._exit(0)", "import os\nos.write(3, b'{')\nos._exit(1)"])
def test_who_leaves_early_has_not_passed(code: str) -> None:
    assert not run_tests({"test_it.py": code}).green


TEST = "from it import double\n\n\ndef test_double():\n    assert double([1, 2]) == [2, 4]\n"
RIGHT = "def double(numbers):\n    return [2 * each for each in numbers]\n"
FORGED = {
    "prints success": """
import json, os
told = json.dumps({"passed": 9, "failures": [], "offline": True, "secret": ""})
def double(numbers):
    print(told, flush=True)
    for file in range(64):
        try: os.write(file, told.encode())
        except OSError: pass
    return []
""",
    "ends with status 0": "import os\ndef double(numbers):\n    os._exit(0)\n",
    "ends when imported": "import os\nos._exit(0)\n",
    "raises SystemExit": "raise SystemExit(0)\n",
    "patches the test runners": """
import builtins, sys, types, unittest
fake = types.ModuleType("pytest")
fake.main = lambda *_: 0
sys.modules["pytest"] = fake
unittest.TestCase.run = lambda self, result=None: None
runner = sys.modules["__main__"]
for name in ("run", "_run", "_told", "sent", "main"):
    setattr(runner, name, lambda *_: {"passed": 9, "failures": []})
builtins.AssertionError = type("Never", (Exception,), {})
def double(numbers): return []
""",
    "equals everything": """
class Same(list):
    def __eq__(self, other): return True
def double(numbers): return Same()
""",
    "reads what is expected": """
import ast, pathlib
def double(numbers):
    text = next(pathlib.Path(__file__).parent.glob("test_*.py")).read_text()
    return ast.literal_eval(text.partition("== ")[2].strip())
""",
    "patches the tests": """
import pathlib
for place in (pathlib.Path(__file__).parent, pathlib.Path.cwd()):
    (place / "test_it.py").write_text("def test_double(): pass")
    (place / "test_other.py").write_text("def test_other(): pass")
def double(numbers): return []
""",
    "writes to other processes": """
import json, os, pathlib
told = json.dumps({"passed": 9, "failures": [], "offline": True, "secret": ""})
def double(numbers):
    for file in pathlib.Path("/proc").glob("[0-9]*/fd/*"):
        if os.readlink("/proc/self") in file.parts: continue
        try: file.write_text(told)
        except OSError: pass
    return []
""",
    "reads the secret": """
import os, pathlib
def double(numbers):
    pages = b""
    others = {int(each.name) for each in pathlib.Path("/proc").glob("[0-9]*")}
    for process in others | {os.getppid(), 1}:
        try: pages += (pathlib.Path("/proc") / str(process) / "environ").read_bytes()
        except OSError: pass
        if str(process) == os.readlink("/proc/self"): continue
        try:
            if open(f"/proc/{process}/mem", "rb"): return [2, 4]
        except OSError: pass
    return []
""",
    "says that it passed": "def double(numbers):\n    numbers[:] = [2, 4]\n    return True\n",
}


@pytest.mark.parametrize("how", FORGED)
def test_a_result_cannot_be_forged(how: str, confined: None) -> None:
    found = run_tests({"it.py": FORGED[how], "test_it.py": TEST})
    assert not found.green and found.passed == 0, found


def test_what_the_code_does_is_seen_by_the_tests() -> None:
    assert run_tests({"it.py": RIGHT, "test_it.py": TEST}).green
    code = (
        "LIMIT = (1, 2.5)\nclass Odd(ValueError): pass\ndef add(numbers, more=1):\n    numbers.append(more)\n"
        "def fail(): raise Odd('it is odd')\ndef key(): return {}['a']\ndef grow(kept={}):\n"
        "    kept[len(kept)] = None\n    return kept\n"
    )
    tests = (
        "import it\nfrom it import LIMIT, add\ndef test_values(): assert LIMIT == (1, 2.5)\n"
        "def test_changes_in_place():\n    a = [1]\n    add(a, more=3)\n    assert a == [1, 3]\n"
        "def test_errors():\n    try: it.fail()\n    except ValueError as error: assert str(error) == 'it is odd'\n"
        "    else: assert False\n"
        "def test_state():\n    it.grow()\n    assert it.grow() == {0: None, 1: None}\n"
        "def test_key():\n    it.key()\n"
    )
    found = run_tests({"it.py": code, "test_it.py": tests})
    assert found.passed == 4 and found.failures == (("test_key", "it.key()", "KeyError: 'a'"),)
    missing = run_tests({"it.py": "", "test_it.py": TEST})
    assert missing.failures[0][2].startswith("ImportError: cannot import name 'double' from 'it'")
    broken = run_tests({"it.py": "def double(:", "test_it.py": TEST})
    assert broken.failures[0][2] == "SyntaxError: invalid syntax (it.py, line 1)"
    own = run_tests({"it.py": "def double(n): return object()\n", "test_it.py": TEST})
    assert own.failures[0][2] == "TypeError: object is no plain data"


def test_code_that_floods_is_no_result() -> None:
    flood = "import os\ndef double(numbers):\n    while True:\n        for file in range(3, 64):\n" + (
        "            try: os.write(file, b'[' * 100000)\n            except OSError: pass\n"
    )
    tracemalloc.start()
    try:
        assert not run_tests({"it.py": flood, "test_it.py": TEST}, 3).green
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_a_result_without_the_secret_is_none() -> None:
    """Even of a test file: it is where the result goes to."""
    code = (
        "import json, os\ntold = json.dumps({'passed': 9, 'failures': [], 'offline': True, 'secret': ''}).encode()\n"
        "for file in range(1, 64):\n    try: os.write(file, told)\n    except OSError: pass\nos._exit(0)\n"
    )
    assert run_tests({"test_it.py": code}).trouble == "the tests could not be run"


def test_names_that_are_nowhere() -> None:
    assert unknown_names("def f(a):\n    return [b for b in a if c]\n") == ("c",)
    assert unknown_names("import os.path as p\nfrom x import y\nprint(p, y, __name__)\n") == ()
    assert unknown_names("from x import *\nz\n") == ()
    assert unknown_names("def f(:\n") == ("(syntax)",)
    assert unknown_names("match x():\n    case {'a': b, **c} | [b, *c]:\n        b, c\n") == ("x",)


def test_differences() -> None:
    assert same_tree("a = 1  # one\n", "a = (1)\n") and not same_tree("a = 1", "a = 2") and not same_tree("a =", "a =")
    assert changed_lines("a\nb\nc", "a\nx\nc") == 2 and changed_lines("a", "a") == 0
