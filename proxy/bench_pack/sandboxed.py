"""Runs the tests of a folder, in a process of its own: `python -I -B sandboxed.py DIR SECONDS MIB`.

Must not: import anything of this project, or run tests before its own limits are set.
Invariant: one line of JSON on the real standard output, whatever the tested code prints; it depends on the code alone.
"""

from __future__ import annotations

import ast
import ctypes
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

MOST_CHARS = 1000
NEW_FILES, NEW_USER, NEW_PROCESSES, NEW_NETWORK = 0x20000, 0x10000000, 0x20000000, 0x40000000
KILLED_WITH_PARENT = 1  # of prctl
MOUNT_SETATTR, HERE, RECURSIVE, READ_ONLY = 442, -100, 0x8000, 1
BIND, PRIVATE, ALL = 0x1000, 0x40000, 0x4000  # of mount


def confine(seconds: int, mib: int) -> bool:
    """Hard limits for what this process and its children may take; returns whether the network is out of reach."""
    try:
        import resource
    except ImportError:  # not a Unix
        return False
    for name, limit in (
        ("RLIMIT_CPU", seconds),
        ("RLIMIT_AS", mib << 20),
        ("RLIMIT_FSIZE", 1 << 20),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NOFILE", 64),
    ):
        number = getattr(resource, name)
        most = resource.getrlimit(number)[1]
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        try:
            resource.setrlimit(number, (limit, limit))
        except (OSError, ValueError):  # some systems do not know it
            continue
    return _without_network()


def _without_network() -> bool:
    """Into a name space in which there is no network; Linux, where it is allowed."""
    return _unshared(NEW_NETWORK)


def _unshared(what: int) -> bool:
    """Into name spaces of its own; False where that is not allowed."""
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):
        return False
    return int(unshare(NEW_USER | what)) == 0 or int(unshare(what)) == 0


def keep_out(folder: Path) -> None:
    """Nothing but the folder can be written, where that is allowed."""
    if not _unshared(NEW_FILES):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    here = bytes(folder)
    libc.mount(b"none", b"/", None, ALL | PRIVATE, None)
    if libc.mount(here, here, None, BIND, None):
        return
    wanted = (ctypes.c_uint64 * 4)(READ_ONLY, 0, 0, 0)  # set, cleared, propagation, name space of users
    libc.syscall(MOUNT_SETATTR, HERE, b"/", RECURSIVE, ctypes.byref(wanted), ctypes.sizeof(wanted))
    wanted = (ctypes.c_uint64 * 4)(0, READ_ONLY, 0, 0)
    libc.syscall(MOUNT_SETATTR, HERE, here, 0, ctypes.byref(wanted), ctypes.sizeof(wanted))
    os.chdir(folder)  # the one that is mounted now


def alone() -> None:
    """Returns in a process with which all that it starts is ended, however it was started, where that is allowed."""
    if not _unshared(NEW_PROCESSES):
        return
    if child := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    ctypes.CDLL(None).prctl(KILLED_WITH_PARENT, 9, 0, 0, 0)


def run(folder: Path) -> dict[str, Any]:
    """Every `test_*` function of every `test_*.py`: how many passed, and (name, statement, outcome) of the others."""
    sys.path.insert(0, str(folder))
    failures: list[tuple[str, str, str]] = []
    passed = 0
    for path in sorted(folder.glob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        scope: dict[str, Any] = {"__name__": path.stem}
        try:
            exec(compile(source, path.name, "exec"), scope)
        except (Exception, SystemExit) as error:
            failures.append((path.stem, "(import)", f"{type(error).__name__}: {error}"[:MOST_CHARS]))
            continue
        for name in [name for name in scope if name.startswith("test_") and callable(scope[name])]:
            try:
                scope[name]()
                passed += 1
            except (Exception, SystemExit) as error:
                statement, outcome = _told(error, source, path.name)
                failures.append((name, statement[:MOST_CHARS], outcome[:MOST_CHARS]))
    return {"passed": passed, "failures": failures}


def _told(error: BaseException, source: str, file: str) -> tuple[str, str]:
    """The statement of the test that failed, and what it got instead."""
    frames = [
        (frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file
    ]
    if not frames:
        return "(import)", f"{type(error).__name__}: {error}"
    frame, line = frames[-1]
    statement = source.splitlines()[line - 1].strip()
    if not isinstance(error, AssertionError):
        return statement, f"{type(error).__name__}: {error}"
    try:
        tree = ast.parse(statement).body[0]
        if not isinstance(tree, ast.Assert):
            return statement, "got something else"
        left = tree.test.left if isinstance(tree.test, ast.Compare) else tree.test
        value = eval(compile(ast.Expression(left), "<assert>", "eval"), frame.f_globals, frame.f_locals)
        return statement, f"got {value!r}"
    except (Exception, SystemExit) as again:
        return statement, f"got {type(again).__name__}"


if __name__ == "__main__":
    out = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    place = Path(sys.argv[1]).resolve()
    alone()
    keep_out(place)
    offline = confine(int(sys.argv[2]), int(sys.argv[3]))
    report = run(place) | {"offline": offline}
    os.write(out, json.dumps(report).encode())
