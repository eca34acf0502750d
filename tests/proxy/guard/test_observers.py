"""What watches a response, step by step and in which order."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from detectors.channels import Piece
from detectors.drift.memory import DriftMemory
from detectors.finding import Finding
from detectors.settings import DEFAULT
from detectors.tool_schema import ToolSchemas
from policies.modes import PLAIN
from proxy.backends.base import Audit, CacheFault, CacheHealth, Delta, EndReason, Shadow, StepStats, Token
from proxy.guard.observers import Observers, text_of
from proxy.guard.transcript import Transcript
from proxy.guard.trips import Trips
from tests.proxy.played import LS, REQUEST, TOOLS, Sink
from tests.proxy.scripted import FAST, ScriptedBackend, cut, token_id

SCHEMAS = ToolSchemas.compile([(tool.name, tool.parameters) for tool in TOOLS])


class Observed:
    def __init__(self, memory: DriftMemory | None = None) -> None:
        self.transcript = Transcript()
        backend = ScriptedBackend("")
        self.trips = Trips(REQUEST, backend, asyncio.run(backend.generate(REQUEST, FAST)), Sink())
        self.observers = Observers(
            REQUEST, SCHEMAS, 1 << 20, FAST, DEFAULT, starts_thinking=False, shadow=memory, exact=True
        )

    def step(self, *tokens: Token, end: EndReason | None = None, **stats: object) -> list[str]:
        """Who speaks, and how many tokens were taken until then."""
        step = StepStats(FAST, "mtp", 3, 3, 0.5, 10, **stats)  # type: ignore[arg-type]
        delta = Delta(len(self.transcript), tokens, step, end)
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


def test_a_cache_that_is_not_what_it_should_be_is_told() -> None:
    fault = CacheFault("seal", 1, "both", 128, 3.0, 0.0)
    told = Observed().step(Token(0, "x"), cache=CacheHealth((fault,), 0, None, None, None))
    assert told == ["drift.kv at 0"]
    assert Observed().step(Token(0, "x"), cache=CacheHealth((), 64, None, None, 0.2)) == []


@pytest.mark.parametrize(
    ("said", "late"),
    [
        ("<tool_call>\n<function=rm>\n", ""),
        ("<tool_call>\nrm -rf\n</tool_call>", ""),
        ("<tool_call>\n<function=rm>\n", "<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"),
    ],
)
def test_calls_that_are_seldom_valid_are_told_once_and_each_call_counts_once(said: str, late: str) -> None:
    memory, told = DriftMemory(), list[str]()
    for _ in range(12):
        observed = Observed(memory)
        told += observed.step(*tokens(said))
        if late:  # nobody has stopped it
            told += observed.step(*tokens(late))
    assert sum(each.startswith("drift.tool_validity") for each in told) == 1
    (window,) = memory.validity._calls.values()
    assert list(window) == [False] * 12
    Observed(memory).step(*tokens(LS))
    assert list(window) == [False] * 12 + [True]


def test_a_call_that_the_token_limit_cuts_off_says_nothing_about_validity() -> None:
    memory = DriftMemory()
    Observed(memory).step(*tokens("<tool_call>\n<function=ls>\n"), end="length")
    assert memory.validity._calls == {}


def test_saturation_stands_beside_a_loop() -> None:
    observed = Observed()
    for n in range(70):
        observed.step(Token(n, f" w{n}", 0.0, 1.0, 9.0, 0.001))
    found = []
    for _ in range(90):
        tokens_ = [Token(index, piece, 0.0, 1.0, 9.0, 0.001) for index, piece in enumerate((" a", " b", " c", " d"))]
        step = StepStats(FAST, "mtp", 3, 3, 0.5, 10)
        delta = Delta(len(observed.transcript), tuple(tokens_), step)
        found += [f for _, f in observed.observers.observe(delta, observed.transcript, observed.trips) if f is not None]
    assert {finding.detector for finding in found} == {"loop.period"}
    assert all(finding.evidence["saturated"] == 1.0 for finding in found)


def test_a_dead_drafter_is_logged_and_nothing_more() -> None:
    observed = Observed()
    with capture_logs() as logs:
        assert observed.step(Token(0, "x"), dead_drafter="mtp") == []
    assert [(entry["event"], entry["source"]) for entry in logs] == [("drafter.dead", "mtp")]
    assert observed.trips.ids == ()


SAID = st.sampled_from(
    [
        " so we go on" * 70,
        " so we go on" * 40,
        "".join(f"\nStep {n}: look at the next file again" for n in range(90)),
        "the same words again and again, in other " * 2 + "order now ",
        "ur" * 300,
        "\n" * 400,
        "```\n" + "    (0, 0),\n" * 120 + "```\n",
        "QUJDR0hJ" * 300,
        LS,
        LS.replace("src", "x" * 40 + " so it goes on" * 200),
        LS.replace("ls", "rm"),
        "<tool_call><tool_call><tool_call>",
        "<think>so</think>" * 5,
        "яж λόγ 中文 ",
        "done. ",
    ]
)


@settings(max_examples=30)
@given(st.lists(SAID, min_size=1, max_size=6).map("".join), st.data())
def test_verdict_and_position_do_not_depend_on_how_many_tokens_a_step_has(text: str, data: st.DataObject) -> None:
    """Plain decoding says one token at a time, a verify step as many as it accepts."""
    said = [Token(token_id(piece), piece) for piece in cut(text)]
    width = data.draw(st.integers(2, 40))
    assert found_in_steps(said, 1) == found_in_steps(said, width)


def found_in_steps(said: list[Token], width: int) -> list[tuple[Finding, int]]:
    """All that is told, and after how many tokens. Nobody listens to it, so the response goes on."""
    observed, told = Observed(), list[tuple[Finding, int]]()
    for at in range(0, len(said), width):
        step = StepStats(FAST, "mtp", 3, 3, 0.5, at)
        delta = Delta(at, tuple(said[at : at + width]), step, "length" if at + width >= len(said) else None)
        for _, finding in observed.observers.observe(delta, observed.transcript, observed.trips):
            if finding is not None and not finding.detector.startswith("drift."):
                told.append((finding, len(observed.transcript)))
    return told


def test_those_steps_tell_something() -> None:
    """The property above is about every detector of a response."""
    text = "".join(
        [
            "".join(f"\nStep {n}: look at the next file again" for n in range(120)),
            "Nothing of that is the case any more, as everybody can see here.",
            " so we go on" * 300,
            "<tool_call><tool_call><tool_call>",
            LS.replace("ls", "rm"),
        ]
    )
    found = found_in_steps([Token(token_id(piece), piece) for piece in cut(text)], 7)
    assert {finding.detector for finding, _ in found} >= {"loop.period", "loop.counter", "struct.run", "tool.markup"}
