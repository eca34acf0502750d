"""What watches a response, step by step and in which order."""

from __future__ import annotations

import asyncio

from detectors.channels import Piece
from detectors.settings import DEFAULT
from detectors.tool_schema import ToolSchemas
from policies.modes import PLAIN
from proxy.backends.base import Audit, Delta, Shadow, StepStats, Token
from proxy.observers import Observers, text_of
from proxy.transcript import Transcript
from proxy.trips import Trips
from tests.proxy.played import LS, REQUEST, TOOLS, Sink
from tests.proxy.scripted import FAST, ScriptedBackend, cut

SCHEMAS = ToolSchemas.compile([(tool.name, tool.parameters) for tool in TOOLS])


class Observed:
    def __init__(self) -> None:
        self.transcript = Transcript()
        backend = ScriptedBackend("")
        self.trips = Trips(REQUEST, backend, asyncio.run(backend.generate(REQUEST, FAST)), Sink())
        self.observers = Observers(
            REQUEST, SCHEMAS, 1 << 20, FAST, DEFAULT, starts_thinking=False, shadow=None, exact=True
        )

    def step(self, *tokens: Token, **stats: object) -> list[str]:
        """Who speaks, and how many tokens were taken until then."""
        step = StepStats(FAST, "mtp", 3, 3, 0.5, 10, **stats)  # type: ignore[arg-type]
        delta = Delta(len(self.transcript), tokens, step)
        found = self.observers.observe(delta, self.transcript, self.trips)
        return [f"{finding.detector} at {len(self.transcript)}" for _, finding in found if finding is not None]


def tokens(text: str) -> list[Token]:
    return [Token(index, piece) for index, piece in enumerate(cut(text))]


def test_what_concerns_the_whole_step_comes_before_its_tokens() -> None:
    observed = Observed()
    bad = Token(1, "a", finite=False)
    told = observed.step(Token(0, "x"), bad, *tokens("<tool_call>\n<function=rm>\n"), audit=Audit(4, 1, 3.5))
    assert told == ["drift.audit at 0", "drift.nonfinite at 1", "tool.unknown at 10"]


def test_whoever_stops_leaves_the_rest_unobserved() -> None:
    observed = Observed()
    delta = Delta(0, (Token(0, "a", finite=False), Token(1, "b")), StepStats(FAST, "mtp", 3, 3, 0.5, 10))
    for _, finding in observed.observers.observe(delta, observed.transcript, observed.trips):
        if finding is not None:
            break
    assert len(observed.transcript) == 0


def test_the_numbers_of_the_engine_are_watched() -> None:
    observed = Observed()
    told = [observed.step(Token(n, " a"), shadow=Shadow(n, agrees=False, identical=False, kl=2.0)) for n in range(40)]
    assert "drift.shadow" in str(told)


def test_after_a_rewind_the_kept_tokens_are_said_again() -> None:
    observed = Observed()
    observed.step(*tokens(f"so\n{LS}\nand <tool_call>\n<function=ls"))
    assert observed.observers.watch.call_began is not None
    assert observed.observers.watch.call_name == ""
    kept = observed.transcript.tokens[: len(cut(f"so\n{LS}\nand"))]
    said = [each for some in observed.observers.rewound(PLAIN, kept) for each in some]
    assert observed.observers.watch.call_began is None
    assert [each.text for each in said if isinstance(each, Piece)] == ["so", "and"]
    assert len(text_of(said)) == len(said) - 1


def test_an_open_call_has_a_name_and_a_size() -> None:
    observed = Observed()
    observed.step(*tokens("<tool_call>\n<function=ls>\n<parameter=path>"))
    assert observed.observers.watch.call_name == "ls"
    assert observed.observers.watch.call_chars == len("\n<function=ls>\n<parameter=path>")
