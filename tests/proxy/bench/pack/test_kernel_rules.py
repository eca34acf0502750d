"""What the kernel refuses to code and to tests that an agent has edited: looked at where it has the rules."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.bench.pack import kernel_rules, sandbox
from proxy.bench.pack.sandbox import run_tests

Tried = Callable[[str], sandbox.Tested]
TEST = "from it import go\ndef test_it():\n    assert go() == 'never'\n"
ALONE = """
import importlib.util, os, sys, threading
from pathlib import Path
spec = importlib.util.spec_from_file_location("kernel_rules", sys.argv[1])
kernel_rules = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernel_rules)
"""


def _has_landlock() -> bool:
    return sys.platform == "linux" and ctypes.CDLL(None).syscall(kernel_rules.CREATE_RULES, None, 0, 1) >= 1


landlock = pytest.mark.skipif(not _has_landlock(), reason="no Landlock here")
filters = pytest.mark.skipif(sys.platform != "linux", reason="the filters are Linux's")


@pytest.fixture(params=["the code", "a test that was edited"])
def tried(request: pytest.FixtureRequest) -> Tried:
    def run(body: str) -> sandbox.Tested:
        """body: of a function, in whose error or value the outcome is told."""
        code = "import os, socket, threading\ndef go():\n" + "".join(f"    {line}\n" for line in body.splitlines())
        if request.param == "the code":
            return run_tests({"it.py": code, "test_it.py": TEST})
        return run_tests({"test_it.py": code + "def test_it():\n    assert go() == 'never'\n"})

    return run


@landlock
def test_what_the_user_has_is_not_read(tried: Tried, tmp_path: Path) -> None:
    """An error's text goes to the model, and that may be anybody's."""
    (tmp_path / "key").write_text("top secret", encoding="utf-8")
    for body in (f"return open({str(tmp_path / 'key')!r}).read()", f"return os.listdir({str(tmp_path)!r})"):
        outcome = tried(body).failures[0][2]
        assert outcome.startswith(("got PermissionError", "PermissionError")), outcome
    assert "PermissionError" in tried("return open('/proc/self/environ').read()").failures[0][2]


@landlock
def test_many_small_files_do_not_fill_a_disk(tried: Tried) -> None:
    assert "PermissionError" in tried("open('one', 'w')").failures[0][2]
    assert "PermissionError" in tried("os.mkdir('one')").failures[0][2]


@filters
@pytest.mark.parametrize(
    "body",
    [
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.kill(os.getpid(), 0)",
        "os.kill(-1, 0)",
        "socket.socket(socket.AF_UNIX)",
    ],
)
def test_no_further_process_no_signal_no_socket(tried: Tried, body: str) -> None:
    assert "PermissionError" in tried(body).failures[0][2]


def test_threads_and_the_standard_library_are_let_be(tried: Tried) -> None:
    body = (
        "import asyncio, ctypes, decimal, hashlib, json, random, sqlite3, zoneinfo\n"
        "done = []\nthread = threading.Thread(target=done.append, args=(1,))\nthread.start()\nthread.join()\n"
        "return done"
    )
    assert tried(body).failures[0][2] == "got [1]"


@landlock
def test_files_elsewhere_stay_as_they_are(tmp_path: Path) -> None:
    """By this rule alone, without name spaces."""
    code = ALONE + (
        "assert kernel_rules.read_only(Path(sys.argv[2]))\n"
        "for what in (lambda: os.truncate(sys.argv[3], 0), lambda: os.remove(sys.argv[3]), "
        "lambda: os.link(sys.argv[3], sys.argv[2] + '/taken'), lambda: open('/dev/null', 'w').close()):\n"
        "    try: what(); print('done')\n    except OSError as error: print(type(error).__name__)\n"
    )
    inside, file = tmp_path / "inside", tmp_path / "file"
    inside.mkdir()
    file.write_text("kept", encoding="utf-8")
    command = [sys.executable, "-c", code, kernel_rules.__file__, str(inside), str(file)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert told[1:] in (["PermissionError", "PermissionError", "done"], ["PermissionError", "OSError", "done"])
    assert told[0] == "PermissionError" and file.read_text(encoding="utf-8") == "kept"


@filters
def test_a_filter_is_inherited_and_cannot_be_taken_back() -> None:
    code = ALONE + (
        "assert kernel_rules.stay_one()\n"
        "try: os.fork()\nexcept PermissionError: print('refused')\n"
        "import ctypes\nctypes.CDLL(None).prctl(22, 0, 0, 0, 0)\n"
        "try: os.fork()\nexcept PermissionError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, kernel_rules.__file__], capture_output=True, text=True)
    assert done.stdout.split() == ["refused", "refused"], done.stderr
