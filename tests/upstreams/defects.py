"""Every defect of a server that the guard has to live with: what it is, who has reported it, and what a client gets.

Must not: say how the guard does it. Invariant: a defect is named once; `source` is where it was documented, and says so
where nobody has.

Sources: `vllm#N`, `sglang#N`, `llama.cpp#N` and other `project#N` are public issues and pull requests; "source" are
those of vLLM 0.33.0, SGLang 0.5.23 and llama.cpp 0.5.0-dev, read or run; "ours" = not reported, but nothing forbids it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tests.upstreams.dialects import KINDS, Kind
from tests.upstreams.faults import Fault
from tests.upstreams.lanes import Lane
from tests.upstreams.replies import Call, Reply, Text, Thinking

Gets = Literal["same", "healed", "ended"]
"""What the client gets of a fast lane that has the defect. same: what a sound server would have given, and no incident;
healed: what the plain lane says, from the last delivered text on; ended: what was good of it, and an honest end."""
SOUND = Reply((Thinking("I look.\n"), Text("I list it.\n"), Call("ls", {"path": "src"})))
"""What a sound lane says, unless a defect is about another response."""
TWO_CALLS = Reply((Text("I list both.\n"), Call("ls", {"path": "src"}), Call("ls", {"path": "tests"})))
ENGINE = frozenset({"speculation", "kv", "prefix", "lane", "unknown"})
"""What differs between the lanes, one of which is at fault; nobody can tell more from outside."""
SERVER = frozenset({"lane", "server", "unknown"})
NOBODY: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Defect:
    """blames: what an incident may name, if there is one. sound: what the plain lane says. accepts: the share of
    drafts that the fast lane's statistics tell meanwhile. leaks: text of the defect that may have been delivered.
    repeats: a call that was right may come more than once. slow: 100,000 of something."""

    name: str
    source: str
    fault: Fault
    gets: frozenset[Gets]
    blames: frozenset[str] = ENGINE
    dialects: tuple[Kind, ...] = KINDS
    sound: Reply = SOUND
    accepts: float | None = None
    leaks: str = ""
    repeats: bool = False
    slow: bool = False

    def lane(self) -> Lane:
        """A fast lane that has it."""
        return Lane(self.sound, (self.fault,), width=4, speculation="mtp", accepts=self.accepts)


def table(*parts: Iterable[Defect]) -> dict[str, Defect]:
    listed: dict[str, Defect] = {}
    for part in parts:
        for defect in part:
            assert defect.name not in listed, f"{defect.name} is there twice"
            assert defect.source, f"{defect.name} has no source"
            listed[defect.name] = defect
    return listed


def gets(*words: Gets) -> frozenset[Gets]:
    return frozenset(words)
