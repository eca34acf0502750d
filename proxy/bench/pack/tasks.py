"""Repair tasks, and the files of a repository that stand before them: from the shipped file or a user's folder.

Must not: run anything. Invariant: the same source and seed give the same tasks and the same context, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

SHIPPED = Path(__file__).with_name("tasks.json")
Verdict = Literal["tests", "tree"]


@dataclass(frozen=True, slots=True)
class Task:
    """source: the faulty module; fixed: the reference. tests: of file `test`, empty where `judge` is `tree`: then a
    repair is right if its syntax tree is the reference's, and nothing is executed. output: what the agent is told.
    place: path inside the repository where `fixed` is a part of a file; empty = the module is the file."""

    name: str
    module: str
    source: str
    fixed: str
    function: str
    output: str
    test: str = ""
    tests: str = ""
    judge: Verdict = "tests"
    place: str = ""

    @property
    def files(self) -> dict[str, str]:
        return {self.module: self.source} | ({self.test: self.tests} if self.test else {})


@dataclass(frozen=True, slots=True)
class Source:
    """Where tasks come from. says: wordings of tool results; modules: (path, text) of the repository, for context."""

    name: str
    system: str
    tools: tuple[Mapping[str, Any], ...]
    says: Mapping[str, str]
    tasks: tuple[Task, ...]
    modules: tuple[tuple[str, str], ...]

    def opening(self, task: Task) -> list[dict[str, Any]]:
        """System prompt and the user's request to repair."""
        listed = "\n".join(sorted(task.files))
        asked = self.says["opening"].format(files=listed, output=task.output)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": asked}]

    def context(self, chars: int, start: int, besides: str = "") -> list[dict[str, Any]]:
        """Turns in which the agent has read other files, about so many characters of text together.

        start: at which file to begin; besides: a module name that must not be among them.
        """
        turns: list[dict[str, Any]] = []
        written, number = 0, 0
        while written < chars:
            round_, at = divmod(number, len(self.modules))
            path, text = self.modules[(start + at) % len(self.modules)]
            number += 1
            if path == besides and len(self.modules) > 1:
                continue
            if round_:  # no two files are alike
                path, text = path.replace(".", f"_r{round_}.", 1), f"# {round_}\n{text}"
            turns += read(f"context_{number}", path, text)
            written += len(text) + len(path)
        return turns


def read(call: str, path: str, text: str) -> list[dict[str, Any]]:
    """Two turns: the agent asks for a file and gets it."""
    return [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": call,
                    "type": "function",
                    "function": {"name": "read_file", "arguments": json.dumps({"path": path})},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call, "content": text.rstrip("\n")},
    ]


@cache
def shipped() -> Source:
    """The tasks that travel with the code; examples/embedded_model/pack_tasks.py wrote them."""
    data = json.loads(SHIPPED.read_text(encoding="utf-8"))
    tasks = tuple(Task(**entry) for entry in data["tasks"])
    modules = _distinct([(task.module, task.fixed) for task in tasks])
    return Source(
        name="shipped",
        system=data["system"],
        tools=tuple(data["tools"]),
        says=data["says"],
        tasks=tasks,
        modules=modules,
    )


def _distinct(found: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Names made unique."""
    taken: set[str] = set()
    made = []
    for path, text in found:
        number, name = 1, path
        while name in taken:
            number += 1
            name = path.replace(".", f"_{number}.", 1)
        taken.add(name)
        made.append((name, text))
    return tuple(made)
