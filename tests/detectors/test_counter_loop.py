"""Counter loops: numbers of any tokenisation, and only where something counts."""

from __future__ import annotations

import random
import re

import pytest

from detectors.counter_loop import CounterLoop
from detectors.finding import Finding, Grade
from detectors.period import Threshold, Thresholds
from detectors.token_text import read

CHOSEN = Thresholds(None, Threshold(4, 96), Threshold(6, 400))


def feed(text: str, digits: int = 1) -> list[tuple[int, Grade, Finding]]:
    """(position, grade, finding) each time the grade rises; numbers cut into tokens of so many digits."""
    detector, told, before = CounterLoop(CHOSEN), [], 0
    for position, piece in enumerate(re.findall(rf"\d{{1,{digits}}}| ?[^\W\d]+|\W", text)):
        loop = detector.push(position, read(piece), piece)
        grade = loop.grade if loop else 0
        if loop and grade > before:
            told.append((position, loop.grade, detector.finding("text", position, loop.grade)))
        before = grade
    return told


@pytest.mark.parametrize("digits", [1, 3])
def test_a_counting_loop_is_found_in_any_tokenisation(digits: int) -> None:
    told = feed("So: " + "".join(f"Step {i}: check the value again.\n" for i in range(95, 200)), digits)
    assert [grade for _, grade, _ in told] == [Grade.FALLBACK, Grade.ABORT]
    found = told[0][2]
    assert (found.detector, found.evidence["period"]) == ("loop.counter", 10)
    assert found.evidence["covered"] <= 96 + 10
    assert 10 <= found.began <= 16  # the first copy stays


def test_counting_down_and_in_steps() -> None:
    assert feed("".join(f"- B({900 - 7 * i}) = {i * i * 77777 % 10007}\n" for i in range(60)))


def test_a_table_does_not_count() -> None:
    draw = random.Random(1)
    assert feed("".join(f"| row {draw.randrange(999)} | {draw.randrange(999)} |\n" for _ in range(200))) == []


def test_numbers_alone_are_no_counter() -> None:
    assert feed("".join(f"{i}, " for i in range(400))) == []


def test_a_hex_dump_of_zeros_is_no_counter() -> None:
    assert feed("".join(f"{16 * i:08x}  {'00 ' * 16} |................|\n" for i in range(160))) == []


def test_equal_numbers_are_left_to_the_exact_detector() -> None:
    assert feed("again 7 times, and " * 100) == []


def test_it_ends_when_the_words_change() -> None:
    text = "".join(f"Step {i}: check it.\n" for i in range(40))
    detector = CounterLoop(CHOSEN)
    pieces = re.findall(r"\d| ?[^\W\d]+|\W", text + "Done with that.")
    grades = [bool(detector.push(i, read(piece), piece)) for i, piece in enumerate(pieces)]
    assert any(grades)
    assert not grades[-1]
    assert detector.loop is None


def test_reset_forgets() -> None:
    detector, text = CounterLoop(CHOSEN), "".join(f"Step {i}: do it\n" for i in range(11))
    for _ in range(3):
        for position, piece in enumerate(re.findall(r"\d| ?[^\W\d]+|\W", text)):
            assert detector.push(position, read(piece), piece) is None
        detector.reset()


def test_memory_is_bounded_and_long_numbers_are_taken() -> None:
    detector = CounterLoop(CHOSEN)
    for position in range(30_000):
        text = "9" * 5000 if position % 3000 == 0 else ("7" if position % 2 else " a")
        detector.push(position, read(text), text)
    assert max(len(detector._positions), len(detector._numbers)) <= 8192
