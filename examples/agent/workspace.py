"""The agent's three tools on one directory: read_file, edit_file, run_tests.

Must not: reach outside the directory, or raise on what a model asks (errors are results that the model can mend).
Invariant: every result is worded by `protocol`.
"""

from __future__ import annotations

import json
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
        return protocol.file_text(found.read_text(encoding="utf-8"))

    def edit_file(self, path: str, old: str, new: str) -> str:
        found = self._find(path)
        if found is None:
            return protocol.not_found(path, self.files())
        content = found.read_text(encoding="utf-8")
        count = content.count(old) if old else 0
        if count == 0:
            return protocol.old_string_missing(path)
        if count > 1:
            return protocol.old_string_ambiguous(path, count)
        found.write_text(content.replace(old, new), encoding="utf-8")
        return protocol.edited(path)

    def run_tests(self) -> str:
        """Runs the tests in an isolated subprocess, so that a bad edit cannot harm the agent."""
        runner = Path(__file__).with_name("runner.py")
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-B", str(runner), str(self.directory)],
                capture_output=True,
                text=True,
                timeout=TEST_TIMEOUT_S,
                cwd=self.directory,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"error: the tests ran longer than {TEST_TIMEOUT_S} s"
        try:
            report = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            return "error: the tests could not be run"
        return protocol.summary([protocol.failure(*f) for f in report["failures"]], report["passed"])

    def _find(self, path: str) -> Path | None:
        candidate = (self.directory / path).resolve()
        if not candidate.is_relative_to(self.directory) or not candidate.is_file():
            return None
        return candidate
