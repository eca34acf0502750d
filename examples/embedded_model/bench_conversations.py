"""Writes the conversations of `specguard bench engine`: `python -m examples.embedded_model.bench_conversations`.

Must not: use training tasks, or pick conversations by how fast they decode.
Invariant: the same file every time. Tasks are held-out seeds; the agent's are the first ones, the rewrites are those of
the first `POOL` with the longest faulty function, because a rewrite is about long copied text.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from examples.agent import protocol
from examples.embedded_model.episodes import make_episode, opening
from examples.embedded_model.tasks import Task, function_source, make_task

TARGET = Path(__file__).parents[2] / "engine" / "bench" / "conversations.json"
AGENT_TASKS, REWRITES, POOL = 4, 3, 40
CUT = "@@fresh text begins here@@"


def conversations() -> dict[str, Any]:
    """The content of the file: tools, and per workload a list of {name, messages}."""
    tasks = [make_task(seed, held_out=True) for seed in range(POOL)]
    longest = sorted(range(POOL), key=lambda seed: (-len(_function(tasks[seed])), seed))[:REWRITES]
    return {
        "made_by": "python -m examples.embedded_model.bench_conversations",
        "tools": protocol.TOOLS,
        "agent": [_entry(seed, tasks[seed]) for seed in range(AGENT_TASKS)],
        "rewrite": [_entry(seed, tasks[seed]) for seed in sorted(longest)],
        "cut": CUT,
        "fresh": _fresh(tasks),
    }


def _fresh(tasks: list[Task]) -> list[dict[str, Any]]:
    """The model goes on where the user speaks or a file is shown: there is nothing to copy, so it invents. (Asked for
    a story, the embedded model falls into a loop, the opposite of fresh text.)"""
    user = [*_entry(0, tasks[0])["messages"][:1], {"role": "user", "content": CUT}]
    files = [[*_entry(seed, tasks[seed])["messages"][:3], {"role": "tool", "content": CUT}] for seed in (0, 2)]
    named = {"invented task": (user, 1), "another invented task": (user, 2), "invented file": (files[0], 1)}
    named["another invented file"] = (files[1], 2)
    return [{"name": name, "messages": messages, "seed": seed} for name, (messages, seed) in named.items()]


def _function(task: Task) -> str:
    return function_source(task.files[task.module], task.function)


def _entry(seed: int, task: Task) -> dict[str, Any]:
    """The whole repair as the agent would have sent it back, without the detours of some training episodes."""
    rng = random.Random(seed)
    episode = make_episode(task, rng)
    while len(episode.messages) != len(opening(task)) + 7:
        episode = make_episode(task, rng)
    return {"name": f"held-out task {seed}", "messages": episode.messages}


if __name__ == "__main__":
    TARGET.write_text(json.dumps(conversations(), indent=1) + "\n", encoding="utf-8")
