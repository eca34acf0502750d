"""Writes the repair tasks of `specguard bench pack` and `qualify`: `python -m examples.embedded_model.pack_tasks`.

Must not: use training tasks, or pick tasks by whether the model solves them.
Invariant: the same file every time; the tasks are consecutive held-out seeds, and the wordings of tool results are
those of the example agent, because the embedded model was trained on them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from examples.agent import protocol
from examples.embedded_model.tasks import make_task

TARGET = Path(__file__).parents[2] / "proxy" / "bench" / "pack" / "tasks.json"
FIRST, COUNT = 200_000, 60


def content() -> dict[str, Any]:
    """The content of the file."""
    return {
        "made_by": "python -m examples.embedded_model.pack_tasks",
        "system": protocol.SYSTEM_PROMPT,
        "tools": protocol.TOOLS,
        "says": {
            "edited": protocol.edited("{path}"),
            "not_found": protocol.not_found("{path}", ["{files}"]),
            "missing": protocol.old_string_missing("{path}"),
            "ambiguous": protocol.old_string_ambiguous("{path}", 0).replace("0", "{count}"),
            "failure": protocol.failure("{test}", "{statement}", "{outcome}"),
            "passed": protocol.summary([], 0).replace("0", "{passed}"),
            "failed": protocol.summary(["{first}"], 0).replace("1 failed, 0", "{failed} failed, {passed}"),
            "opening": protocol.first_message(["{files}"], "{output}"),
        },
        "tasks": [_task(FIRST + number) for number in range(COUNT)],
    }


def _task(seed: int) -> dict[str, Any]:
    task = make_task(seed, held_out=True)
    test = next(name for name in task.files if name != task.module)
    return {
        "name": f"held-out task {seed}",
        "module": task.module,
        "source": task.files[task.module],
        "test": test,
        "tests": task.files[test],
        "fixed": task.fixed,
        "function": task.function,
        "output": task.test_output,
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(content(), indent=1) + "\n", encoding="utf-8")
