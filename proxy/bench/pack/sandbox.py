"""What a repaired module is worth: its tests in confined processes, names that are nowhere defined, the difference from
the reference.

Must not: run code in this process, or let any of it outlive its result.
Invariant: a folder of its own for each run, gone afterwards; no environment, time and memory limited; a result counts
only with the secret of its run, so neither an exit status nor anything that the code prints or writes is one.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import difflib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from proxy.bench.pack.sandboxed import SECRET_CHARS

SECONDS, MIB = 10, 512
MOST_BYTES = 1 << 20
NO_RESULT = "the tests could not be run"
SCRIPT = Path(__file__).with_name("sandboxed.py")


@dataclass(frozen=True, slots=True)
class Tested:
    """failures: (test, statement, outcome). trouble: why there is no result, empty if there is one. offline: whether
    the network was out of the code's reach."""

    passed: int
    failures: tuple[tuple[str, str, str], ...] = ()
    trouble: str = ""
    offline: bool = False

    @property
    def green(self) -> bool:
        return self.passed > 0 and not self.failures and not self.trouble


def run_tests(files: Mapping[str, str], seconds: float = SECONDS) -> Tested:
    """Runs all tests of these files. Blocks.

    The tests and the code that they test run in two processes, and only the one with the tests can report: see
    `sandboxed`. What a test file itself does is believed.
    """
    told = _confined("tests", files, "", seconds)
    if isinstance(told, str):
        return Tested(0, trouble=told)
    try:
        failures = tuple((str(a), str(b), str(c)) for a, b, c in told["failures"])
        return Tested(int(told["passed"]), failures, "", bool(told["offline"]))
    except (ValueError, LookupError, TypeError):
        return Tested(0, trouble=NO_RESULT)


def missing_names(names: Sequence[tuple[str, Sequence[str]]], seconds: float = SECONDS) -> list[bool]:
    """Of (module, attributes) of the standard library, which ones are nowhere; none of them where that cannot be found
    out. Blocks: modules are imported, in the sandbox."""
    told = _confined("names", {}, json.dumps(names), seconds)
    found = [] if isinstance(told, str) else told.get("missing", [])
    return found if isinstance(found, list) and len(found) == len(names) else [False] * len(names)


def _confined(role: str, files: Mapping[str, str], asked: str, seconds: float) -> dict[str, Any] | str:
    """What the script reports, or why there is no result."""
    secret = secrets.token_hex(SECRET_CHARS // 2)
    with TemporaryDirectory(prefix="specguard-pack-") as folder, TemporaryFile() as told_in, TemporaryFile() as given:
        for name, text in files.items():
            path = Path(folder) / Path(name).name
            path.write_bytes(text.encode("utf-8", "replace"))
        given.write((secret + asked).encode())
        given.seek(0)
        command = [sys.executable, "-I", "-S", "-B", str(SCRIPT), role, folder, str(int(seconds) + 1), str(MIB)]
        process = subprocess.Popen(
            command,
            stdin=given,
            stdout=told_in,  # a file, whose size is limited, and not a pipe, which is read without a bound
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"the tests ran longer than {seconds:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        told_in.seek(0)
        output = told_in.read(MOST_BYTES)
    try:
        told = json.loads(output)
        return told if isinstance(told, dict) and told.get("secret") == secret else NO_RESULT
    except ValueError:  # the code ended the process, or wrote where only we write
        return NO_RESULT


def unknown_names(source: str) -> tuple[str, ...]:
    """Names that a module reads and nothing in it binds, sorted; ("(syntax)",) if it does not compile.

    Scopes are not told apart: a name that is bound anywhere counts as known, so what is named here is missing for sure.
    """
    try:
        tree = ast.parse(source)
        compile(tree, "module", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ("(syntax)",)
    known = set(dir(builtins)) | {"__name__", "__file__", "__doc__"}
    read: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name):
                known.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                known.add(name)
            case ast.arg(arg=name):
                known.add(name)
            case ast.alias(name=name, asname=other):
                if name == "*":
                    return ()  # nobody knows what that binds
                known.add(other or name.partition(".")[0])
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                known.add(name)
            case ast.MatchMapping(rest=str(name)):
                known.add(name)
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                known.update(names)
    return tuple(sorted(read - known))


def same_tree(source: str, reference: str) -> bool:
    """Whether two modules are the same but for layout and comments."""
    try:
        return ast.dump(ast.parse(source)) == ast.dump(ast.parse(reference))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def changed_lines(source: str, reference: str) -> int:
    """Lines that differ from the reference, those that are missing and those that are too many."""
    lines = difflib.ndiff(reference.splitlines(), source.splitlines())
    return sum(line.startswith(("+ ", "- ")) for line in lines)
