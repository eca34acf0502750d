"""A tiny test runner with deterministic output: `python -m examples.agent.runner DIR` or as a plain script.

Must not: import anything of this project, so that it runs as a script in any directory, isolated in a subprocess.
Invariant: the output depends on the tested code alone (no times, no paths), in the wording of `protocol`.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

Outcome = tuple[str, str, str]
"""(test name, failing statement, what happened)"""
MAX_CHARS = 1000
"""Of a statement and of what happened: a value may be long, and a model's context is not."""


def run_namespace(namespace: dict[str, Any], source: str, filename: str) -> tuple[list[Outcome], int]:
    """Runs every `test_*` function of an executed test module; returns (failures, number passed)."""
    failures: list[Outcome] = []
    passed = 0
    for name in [n for n in namespace if n.startswith("test_") and callable(namespace[n])]:
        try:
            namespace[name]()
            passed += 1
        except (Exception, SystemExit) as error:
            statement, outcome = describe(error, source, filename)
            failures.append((name, statement[:MAX_CHARS], outcome[:MAX_CHARS]))
    return failures, passed


def describe(error: BaseException, source: str, filename: str) -> tuple[str, str]:
    """The statement of the test that failed, and the value it got or the exception it met."""
    frame, line = _test_frame(error.__traceback__, filename)
    statement = source.splitlines()[line - 1].strip() if line else "(import)"
    if isinstance(error, AssertionError) and frame is not None:
        return statement, f"got {_left_value(statement, frame)}"
    return statement, f"{type(error).__name__}: {error}"


def _test_frame(trace: TracebackType | None, filename: str) -> tuple[FrameType | None, int]:
    frame, line = None, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == filename:
            frame, line = trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next
    return frame, line


def _left_value(statement: str, frame: FrameType) -> str:
    """Evaluates the left side of `assert a == b` again in the frame of the test (this is the tested code itself)."""
    try:
        tree = ast.parse(statement).body[0]
        if isinstance(tree, ast.Assert):
            left = tree.test.left if isinstance(tree.test, ast.Compare) else tree.test
            code: CodeType = compile(ast.Expression(left), "<assert>", "eval")
            return repr(eval(code, frame.f_globals, frame.f_locals))
    except (Exception, SystemExit) as error:
        return type(error).__name__
    return "something else"


def run_directory(directory: Path) -> tuple[list[Outcome], int]:
    """Runs all `test_*.py` files of a directory in alphabetical order."""
    sys.path.insert(0, str(directory))
    failures: list[Outcome] = []
    passed = 0
    for path in sorted(directory.glob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        namespace: dict[str, Any] = {"__name__": path.stem}
        try:
            exec(compile(source, path.name, "exec"), namespace)
        except (Exception, SystemExit) as error:
            failures.append((path.stem, "(import)", f"{type(error).__name__}: {error}"[:MAX_CHARS]))
            continue
        more, ok = run_namespace(namespace, source, path.name)
        failures += more
        passed += ok
    return failures, passed


if __name__ == "__main__":
    report = sys.stdout
    # what the tested code prints is not part of the report
    with open(os.devnull, "w", encoding="utf-8", errors="replace") as nowhere:
        sys.stdout = nowhere
        found, good = run_directory(Path(sys.argv[1]).resolve())
        sys.stdout = report
    print(json.dumps({"failures": found, "passed": good}))
