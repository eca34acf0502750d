"""Loops in bytes: the same verdict however the text is cut, folded text included."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.byte_loops import ByteLoops
from detectors.finding import Finding, Grade


def feed(text: str, sizes: list[int], channel: str = "text") -> list[Finding]:
    data, loops, found, at = text.encode(), ByteLoops(channel=channel), list[Finding](), 0
    for position in range(len(data)):
        size = sizes[position % len(sizes)]
        found += loops.feed(position, data[at : at + size])
        at += size
        if at >= len(data):
            break
    return found


def told(found: list[Finding]) -> list[tuple[Grade, int, int, int]]:
    return [(f.grade, f.evidence["byte"], f.evidence["began_byte"], f.evidence["period"]) for f in found]


LEAD = "It was a long way to the river, and nobody said a word until they saw the boat.\n"


@pytest.mark.parametrize(
    ("unit", "covered"),
    [("\n", 1024), ("items ", 1024), ("court\n\n", 1024), ("an eleven b", 512), ("ü-umlaut ", 512)],
)
def test_a_loop_trips_at_its_threshold(unit: str, covered: int) -> None:
    found = told(feed(LEAD + unit * (9000 // len(unit)), [1]))
    by_grade = {grade: (byte, began) for grade, byte, began, _ in found}
    size, lead = len(unit.encode()), len(LEAD.encode())
    byte, began = by_grade[Grade.FALLBACK]
    assert abs(byte - (lead + covered - 1)) <= size  # the lead may end as the unit does
    assert abs(began - (lead + size)) <= size
    assert by_grade[Grade.SUSPECT][0] < byte < by_grade[Grade.ABORT][0]


def test_what_a_tokenizer_would_fold_is_seen() -> None:
    assert told(feed(LEAD + "\n" * 2000, [300]))[0][0] is Grade.SUSPECT


def test_arguments_may_repeat_more() -> None:
    rows = "0, 1, 0, 0, 1, 1, \n" * 60
    assert max(f.grade for f in feed(rows, [7])) is Grade.FALLBACK
    assert [f.grade for f in feed(rows, [7], "tool:0")] == [Grade.SUSPECT]


@settings(max_examples=25)
@given(
    st.sampled_from(["\n", "go on ", "a", "Wait, let me think about it once more. ", "naïve or not ", "x" * 900 + "y"]),
    st.lists(st.integers(1, 700), min_size=1, max_size=6),
)
def test_the_cut_does_not_matter(unit: str, sizes: list[int]) -> None:
    text = LEAD + unit * (6000 // len(unit)) + "It ends."
    whole, cut = feed(text, [1]), feed(text, sizes)
    assert told(cut) == told(whole)
    starts = [0]
    while starts[-1] < len(text.encode()):
        starts.append(starts[-1] + sizes[(len(starts) - 1) % len(sizes)])
    for finding in cut:  # positions are those of the pieces that hold the bytes
        assert starts[finding.position] <= finding.evidence["byte"] < starts[finding.position + 1]
        assert starts[finding.began] <= finding.evidence["began_byte"] < starts[finding.began + 1]


def test_seven_paragraphs_are_a_unit() -> None:
    """As many characters as were reported of a thinking loop: 38,193 in nine copies."""
    unit = "".join(f"Paragraph {n * 7919 % 9973} of what was thought about {n}. " for n in range(120))[:4244]
    grades = [found.grade for found in ByteLoops().feed(0, unit.encode() * 9)]
    assert grades == [Grade.SUSPECT, Grade.FALLBACK, Grade.ABORT]


def test_grade_and_reset() -> None:
    loops = ByteLoops()
    loops.feed(0, b"no " * 400)
    assert loops.grade is Grade.FALLBACK
    loops.feed(1, b"yes")
    assert loops.grade is None
    loops.feed(2, b"no " * 100)
    loops.reset("thinking")
    assert loops.grade is None
    assert loops.feed(3, b"no " * 100) == []


def test_random_bytes_are_no_loop_and_memory_is_bounded() -> None:
    loops, draw = ByteLoops(), random.Random(1)
    for position in range(70_000):
        assert loops.feed(position, draw.randbytes(1)) == []
    assert len(loops._starts) < 1 << 16
