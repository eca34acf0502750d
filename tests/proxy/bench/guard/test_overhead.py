"""The sides decode the same; what is reported is each task against itself."""

from __future__ import annotations

import pytest

from policies.modes import DecodeMode
from proxy.bench.guard.overhead import Side, bars, run_overhead, table
from proxy.bench.guard.tasks import Task
from proxy.conversation import ChatRequest
from tests.proxy.played import LS, REQUEST
from tests.proxy.scripted import ScriptedBackend, ScriptedGeneration, cut


class Switched(ScriptedBackend):
    """Notes whether audits were on when a response began."""

    audit_every = 16

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.asked: list[int] = []

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> ScriptedGeneration:
        self.asked.append(self.audit_every)
        return await super().generate(request, mode)


async def test_all_sides_decode_the_same_tokens() -> None:
    tasks = [Task("go", "call", REQUEST)] * 2
    backend = Switched(LS)
    sides = await run_overhead(backend, tasks, DecodeMode("mtp"), 3)
    assert [side.tokens for side in sides] == [len(cut(LS)) * 2 * 3] * 3
    assert all(len(side.first) == len(side.decode) == 2 * 3 for side in sides)
    assert backend.asked.count(16) == 2 * 4, "each task once a round, the first one included"
    assert backend.asked.count(0) == 2 * 2 * 4
    assert backend.audit_every == 16
    assert all(value > 0 for side in sides for value in [*side.first, *side.decode])
    assert len(table(sides).rows) == 3


def test_bars_compare_each_response_with_its_own() -> None:
    sides = [
        Side("a", [1.0, 1.0, 9.0], [10.0, 10.0, 90.0], 3),
        Side("b", [1.5, 1.5, 11.5], [10.1, 10.1, 200.0], 3),
        Side("c", [1.5, 1.5, 9.0], [11.0, 11.0, 99.0], 3),
    ]
    guard, audits, first = bars(sides)
    assert (guard.measured, guard.holds) == (pytest.approx(1.0), True)
    assert (audits.measured, audits.holds) == (pytest.approx(10.0), False)
    assert (first.measured, first.holds) == (0.5, True)


def test_audits_of_a_few_responses_count() -> None:
    alone = Side("a", [1.0] * 5, [10.0] * 5, 5)
    audited = Side("c", [1.0] * 5, [10.0] * 4 + [13.0], 5)
    assert bars([alone, alone, audited])[1].measured == pytest.approx(6.0)
