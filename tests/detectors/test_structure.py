"""Structural tokens: runs, thinking that opens again, tokens of prompts; and whatever only looks like them."""

from __future__ import annotations

import sysconfig
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.channels import Channels
from detectors.finding import Finding, Grade
from detectors.structure import MISPLACED, Steps, StructureDetector

STDLIB = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
TAGS = ["<tool_call>", "</tool_call>", "<think>", "</think>", "<fim_prefix>", "<|fim_middle|>", "<|im_start|>"]


def told(tokens: list[str], starts_thinking: bool = False) -> list[str]:
    """One line per finding: what, how grave, at which token, since which."""
    detector = StructureDetector(starts_thinking)
    found = [(f, p) for p, text in enumerate(tokens) if (f := detector.feed(p, text)) is not None]
    assert all(finding.position == position and finding.began <= position for finding, position in found)
    return [line(finding) for finding, _ in found]


def line(f: Finding) -> str:
    return f"{f.detector} {f.grade.name} in {f.channel} at {f.position} since {f.began}: {f.evidence['copies']}"


def test_one_tag_again_and_again() -> None:
    """vLLM issue 40831, and `<fim_prefix>` x31, which is too short for a period detector."""
    assert told(["a", *["<tool_call>"] * 31]) == [
        "struct.run SUSPECT in tool:0 at 2 since 1: 2",
        "struct.run FALLBACK in tool:0 at 3 since 1: 3",
        "struct.run ABORT in tool:0 at 16 since 1: 16",
    ]
    runs = [each for each in told(["<fim_prefix>", "\n"] * 31) if each.startswith("struct.run")]
    assert runs == [
        "struct.run SUSPECT in text at 2 since 0: 2",
        "struct.run FALLBACK in text at 4 since 0: 3",
        "struct.run ABORT in text at 30 since 0: 16",
    ]


@pytest.mark.parametrize("between", ["x", " and ", "`"])
def test_anything_between_ends_a_run(between: str) -> None:
    assert not [each for each in told(["</think>", between] * 40) if "run" in each]


def test_a_completed_call_between_is_no_run() -> None:
    assert told(["<tool_call>", "\n<function=ls>\n</function>\n", "</tool_call>", "\n"] * 8) == []


def test_a_new_run_is_told_anew() -> None:
    tokens = ["<think>", "<think>", "x", "<think>", "<think>"]
    assert [each.split(": ")[0] for each in told(tokens)] == [
        "struct.run SUSPECT in thinking at 1 since 0",
        "struct.run SUSPECT in thinking at 4 since 3",
    ]


def test_thinking_that_opens_again() -> None:
    tokens = ["<think>", "a", "</think>", "b"] * 40
    assert told(tokens) == [
        "struct.think SUSPECT in text at 8 since 4: 2",
        "struct.think FALLBACK in text at 16 since 4: 4",
        "struct.think ABORT in text at 128 since 4: 32",
    ]


def test_thinking_between_calls_is_a_habit_of_some_models() -> None:
    tokens = ["<think>", "a", "</think>", "b", "<tool_call>", "x", "</tool_call>"] * 40
    assert told(tokens) == []


def test_a_prompt_that_opened_thinking_counts_as_once() -> None:
    assert told(["a", "</think>", "b", "<think>", "c", "</think>", "<think>"], starts_thinking=True)[0].startswith(
        "struct.think SUSPECT in text at 6 since 3"
    )


@pytest.mark.parametrize("tag", MISPLACED)
def test_a_token_of_prompts_is_suspicious_at_once(tag: str) -> None:
    assert told(["so ", tag, "x", tag]) == ["struct.misplaced SUSPECT in text at 1 since 1: 1"]
    assert told(["so ", *[tag, "x"] * 9]) == [
        "struct.misplaced SUSPECT in text at 1 since 1: 1",
        "struct.misplaced FALLBACK in text at 11 since 1: 6",
    ]
    assert told(["so `", tag, "` x"]) == []
    assert told(["<tool_call>", "x", tag, "y", "</tool_call>"]) == []


def test_arguments_may_hold_tags() -> None:
    body = ["<tool_call>", "x"]
    assert told([*body, *["<fim_prefix>"] * 3]) == []
    grades = [each.split()[1] for each in told([*body, *["<fim_prefix>"] * 99])]
    assert grades == ["SUSPECT", "FALLBACK"]


PARTS = st.sampled_from([*TAGS, "a", " ", "\n", "<", "<th", "`", "'", "ink>", "<|", "<tool_", "<tool_call>\n"])


@given(st.lists(PARTS, max_size=40), st.booleans(), st.data())
def test_the_cut_does_not_matter(parts: list[str], thinking: bool, data: st.DataObject) -> None:
    """Positions are those of the tokens that a finding's characters are in, so both are compared by character."""
    text = "".join(parts)
    cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=12))})
    whole = StructureDetector(thinking)
    single = [f for at, c in enumerate(text) if (f := whole.feed(at, c)) is not None]
    assert all(text[f.began] == "<" and text[f.position] == ">" for f in single)
    cut = StructureDetector(thinking)
    pieces = list(pairwise(cuts))
    found = [f for n, (a, b) in enumerate(pieces) if (f := cut.feed(n, text[a:b])) is not None]

    def token(at: int) -> int:
        return next(n for n, (a, b) in enumerate(pieces) if a <= at < b)

    expected: dict[int, Finding] = {}
    for f in single:
        n = token(f.position)
        if n not in expected or f.grade > expected[n].grade:
            expected[n] = f
    assert [(f.position, f.grade, f.detector, f.began, f.channel, f.evidence) for f in found] == [
        (n, f.grade, f.detector, token(f.began), f.channel, f.evidence) for n, f in sorted(expected.items())
    ]


@given(st.lists(PARTS, max_size=40), st.booleans())
def test_it_is_in_a_call_when_the_channels_are(parts: list[str], thinking: bool) -> None:
    detector, channels = StructureDetector(thinking), Channels(thinking)
    for position, part in enumerate(parts):
        detector.feed(position, part)
        channels.feed(position, part)
        assert detector.channel == channels.channel


def scan(paths: list[Path]) -> tuple[int, list[str]]:
    hits, count = [], 0
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        detector = StructureDetector()
        count += 1
        hits += [
            f"{path.name} {line(f)}" for at in range(0, len(text), 4) if (f := detector.feed(at, text[at : at + 4]))
        ]
    return count, hits


def test_program_text_is_clean() -> None:
    count, hits = scan(STDLIB[:60])
    assert count == 60
    assert hits == []


@pytest.mark.slow
def test_the_whole_standard_library_is_clean() -> None:
    count, hits = scan(sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")))
    assert count > 500
    assert hits == []


def test_steps() -> None:
    steps = Steps(2, 4)
    assert [steps.reached(count) for count in (1, 2, 3, 4, 99)] == [
        None,
        Grade.SUSPECT,
        Grade.SUSPECT,
        Grade.FALLBACK,
        Grade.FALLBACK,
    ]
