"""The agent's three tools on one directory: read_file, edit_file, run_tests.

Must not: reach outside the directory, or raise on what a model asks (errors are results that the model can mend).
Invariant: every result is worded by `protocol`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.agent import protocol

TEST_TIMEOUT_S = 20


class Workspace:
    """A repository on disk that an agent works in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()

    def files(self) -> list[str]:
        return sorted(p.name for p in self.directory.glob("*.py"))

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Executes one tool call and returns the text of its result."""
        if name == "read_file":
            return self.read_file(str(arguments.get("path", "")))
        if name == "edit_file":
            texts = [str(arguments.get(key, "")) for key in ("path", "old_string", "new_string")]
            return self.edit_file(*texts)
        if name == "run_tests":
            return self.run_tests()
        return f"error: no tool {name}"

    def read_file(self, path: str) -> str:
        found = self._find(path)
        if found is None:
            return protocol.not_found(path, self.files())
        content = _text(found)
        return _no_text(path) if content is None else protocol.file_text(content)

    def edit_file(self, path: str, old: str, new: str) -> str:
        found = self._find(path)
        if found is None:
            return protocol.not_found(path, self.files())
        content = _text(found)
        if content is None:
            return _no_text(path)
        count = content.count(old) if old else 0
        if count == 0:
            return protocol.old_string_missing(path)
        if count > 1:
            return protocol.old_string_ambiguous(path, count)
        edited = content.replace(old, new)
        try:
            if b"\r\n" in found.read_bytes():  # models are shown and write plain \n; the file keeps its own
                edited = edited.replace("\n", "\r\n")
            # encoded before the file is opened: a text that cannot be written must not empty it
            found.write_bytes(edited.encode("utf-8"))
        except (OSError, UnicodeEncodeError):
            return f"error: {path} cannot be written with this new_string"
        return protocol.edited(path)

    def run_tests(self) -> str:
        """Runs the tests in an isolated subprocess, so that a bad edit cannot harm the agent."""
        runner = Path(__file__).with_name("runner.py")
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(runner), str(self.directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            cwd=self.directory,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=TEST_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"error: the tests ran longer than {TEST_TIMEOUT_S} s"
        finally:
            _end(process)
        try:
            report = json.loads(output.splitlines()[-1])
            return protocol.summary([protocol.failure(*f) for f in report["failures"]], report["passed"])
        except (ValueError, LookupError, TypeError):  # the tested code left early, or wrote something of its own
            return "error: the tests could not be run"

    def _find(self, path: str) -> Path | None:
        try:
            candidate = (self.directory / path).resolve()
            inside = candidate.is_relative_to(self.directory) and candidate.is_file()
        except (OSError, ValueError, RuntimeError):  # no file can have this name, or links form a ring
            return None
        return candidate if inside else None


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a test run with all that it started: nothing of it outlives its result."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _text(path: Path) -> str | None:
    """None if the file cannot be read as text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _no_text(path: str) -> str:
    return f"error: {path} is not a text file"
