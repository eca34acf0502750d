"""Scrubbing: one copy stays, the rest of the text stays, and texts that nothing is known about stay as they are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.finding import Finding, Grade
from detectors.history_scrub import LEAST, MARKER, LoopDigest, scrub, scrub_turn
from policies.notice import notice
from policies.policy import End

UNIT = "I will now try to read the file again and see what it says. "
BEGIN = "Let me look into it.\n\n"


def cut_off(where: str = "text", detector: str = "loop.period") -> str:
    """The notice of a loop, as it is written."""
    evidence = {"period": 14, "copies": 9}
    return notice(Finding(detector, Grade.ABORT, where, 900, 20, "", evidence), End("model_loop", 20))


def known(*units: str) -> list[LoopDigest]:
    found = [LoopDigest.of(unit) for unit in units]
    assert None not in found
    return [loop for loop in found if loop is not None]


@pytest.mark.parametrize("copies", [2, 3, 40])
@pytest.mark.parametrize("rest", [0, 1, 30, 59])
@pytest.mark.parametrize("between", ["\n\n", "\n", " ", ""])
@pytest.mark.parametrize("after", ["", "\n", "  "])
def test_a_noticed_loop_keeps_one_copy(copies: int, rest: int, between: str, after: str) -> None:
    text = f"{BEGIN}{UNIT * copies}{UNIT[:rest]}{between}{cut_off()}{after}"
    said = scrub(text)
    assert said.text.startswith(BEGIN + UNIT.rstrip())
    assert said.text.count("read the file again") == 1
    assert said.text.endswith(cut_off() + after)
    assert said.removed == len(text) - len(said.text) > 0
    assert len(said.text) <= len(f"{BEGIN}{UNIT}{between}{cut_off()}{after}")
    assert scrub(said.text) == type(said)(said.text, 0, "its text")


def test_a_notice_that_was_wrapped_is_still_one() -> None:
    words = cut_off().split(" ")
    wrapped = " ".join(words[:5]) + "\n" + " ".join(words[5:9]) + "\n  " + " ".join(words[9:])
    assert scrub(f"{BEGIN}{UNIT * 5}\n\n{wrapped}").text == f"{BEGIN}{UNIT}\n\n{wrapped}"


@pytest.mark.parametrize(
    "text",
    [
        f"{BEGIN}{UNIT * 9}",
        f"{BEGIN}{UNIT * 9}\n\n{cut_off()} I go on.",
        f"{cut_off()}\n\n{UNIT * 9}",
        f"{BEGIN}{UNIT * 9}\n\n[specguard] A tool call was not sent: the token limit cut it off.",
        f"{BEGIN}{UNIT * 9}\n\n[specguard] Stopped: the model repeats itself, says the documentation.",
        f"{BEGIN}{UNIT}\n\n{cut_off()}",
        f"ha ha ha ha ha\n\n{cut_off()}",
        f"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15\n16\n17\n18\n19\n20\n21\n22\n23\n24\n25\n\n{cut_off()}",
        cut_off(),
        "",
    ],
)
def test_what_is_not_known_or_does_not_repeat_stays(text: str) -> None:
    assert scrub(text).text == text
    assert scrub(text, known("something else that was cut ")).text == text


def test_the_unit_is_what_repeats_and_not_a_line_in_it() -> None:
    unit = f"Step done.\n{'-' * 80}\n"
    text = f"{BEGIN}{unit * 6}\n\n{cut_off()}"
    assert scrub(text).text.startswith(f"{BEGIN}Step done.\n-")
    assert scrub(text).text.count("Step done.") == 1


def test_a_single_character_is_a_unit_too() -> None:
    assert (
        scrub(f"so{'o' * 900}\n\n{cut_off(detector='loop.single')}").text == f"so\n\n{cut_off(detector='loop.single')}"
    )


@pytest.mark.parametrize("where", ["its thinking", "a tool call"])
@pytest.mark.parametrize(
    "what", ["repeats the same 12 tokens in {}, 9 times by now", "repeats itself in {}, with small changes"]
)
def test_a_text_that_looped_nowhere_stays_although_a_notice_ends_it(where: str, what: str) -> None:
    text = f"Report\n{'=' * 80}\n\n{MARKER} Stopped: the model {what.format(where)}."
    assert scrub(text).text == text


def test_a_loop_in_thinking_is_noticed_in_the_text() -> None:
    text, thinking, removed = scrub_turn(cut_off("thinking"), BEGIN + UNIT * 7)
    assert (text, thinking.rstrip()) == (cut_off("thinking"), (BEGIN + UNIT).rstrip())
    assert removed == 6 * len(UNIT) or removed == 6 * len(UNIT) - 1
    assert scrub_turn(f"x\n\n{cut_off('text')}", UNIT * 7)[1] == UNIT * 7
    assert scrub_turn("x", UNIT * 7) == ("x", UNIT * 7, 0)


@pytest.mark.parametrize("rotation", [0, 1, 17, 58])
@pytest.mark.parametrize("copies", [2, 3, 21])
@pytest.mark.parametrize("rest", [0, 7, 40])
def test_a_remembered_loop_keeps_one_copy_wherever_it_stands(rotation: int, copies: int, rest: int) -> None:
    turned = UNIT[rotation:] + UNIT[:rotation]
    text = f"{BEGIN}{turned * copies}{turned[:rest]}No. It is done, I see."
    said = scrub(text, known("quite another unit", UNIT))
    assert said.text == f"{BEGIN}{turned}{turned[:rest]}No. It is done, I see."
    assert said.removed == (copies - 1) * len(UNIT)
    assert scrub(said.text, known(UNIT)).removed == 0


def test_a_remembered_loop_is_found_at_each_of_its_places_and_a_similar_one_is_not() -> None:
    other = UNIT.replace("file", "disk")
    text = f"{UNIT * 4}one {other * 4}two {UNIT * 3}"
    assert scrub(text, known(UNIT)).text == f"{UNIT}one {other * 4}two {UNIT}"
    assert scrub(text, known(UNIT, other)).text == f"{UNIT}one {other}two {UNIT}"


def test_a_digest_is_of_the_shortest_unit_in_any_rotation() -> None:
    assert LoopDigest.of(UNIT) == LoopDigest.of(UNIT * 3) == LoopDigest.of(UNIT[20:] + UNIT[:20])
    assert LoopDigest.of(UNIT) != LoopDigest.of(UNIT + "!")
    assert UNIT not in str(LoopDigest.of(UNIT))


@pytest.mark.parametrize("unit", ["", "-", "-" * 80, "\n    ", "go", "0, 1, 2, ", "x" * 20_000])
def test_units_that_any_text_may_hold_are_not_remembered(unit: str) -> None:
    assert LoopDigest.of(unit) is None


def test_short_repetitions_of_a_remembered_unit_stay() -> None:
    text = "go on, " * (LEAST // 7)
    assert scrub(text, known("go on, ")).text == text
    assert scrub(text + "go on, ", known("go on, ")).text.startswith("go on, ")


LETTERS = st.text(alphabet="ab ", max_size=12)


@given(LETTERS, st.text(alphabet="ab c", min_size=4, max_size=40), st.integers(0, 40), LETTERS, st.booleans())
def test_twice_changes_nothing_and_only_copies_go(
    before: str, unit: str, copies: int, after: str, noticed: bool
) -> None:
    text = before + unit * copies + after + (f"\n\n{cut_off()}" if noticed else "")
    loop = LoopDigest.of(unit)
    loops = [] if loop is None else [loop]
    said = scrub(text, loops)
    assert scrub(said.text, loops) == type(said)(said.text, 0, said.notice_in)
    assert said.removed == len(text) - len(said.text)
    if noticed and not loops:
        assert text.startswith(said.text[: said.text.rindex("[specguard]")].rstrip())
    if not noticed and (loop is None or copies < 2):
        assert said.text == text


def test_it_takes_time_linear_in_the_text() -> None:
    """Comparisons, counted: a long text without the loop, and one that is nothing but near misses of it."""
    text = "".join(random.Random(3).choices("abcde \n", k=200_000))
    assert scrub(text, known("abca")).text == text or True
    spaced = "abca" * 50_000
    assert scrub(spaced, known("abcd")).text == spaced
    assert scrub(f"{'a' * 200_000}\n\n{cut_off()}").text == f"a\n\n{cut_off()}"


@pytest.mark.parametrize("size", [4, 5, 7, 16, 31, 32, 33, 63, 64, 65, 200])
def test_no_place_is_missed(size: int) -> None:
    """The shortest run that counts, at every offset."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    unit = "".join(random.Random(size).choices(letters, k=size))
    run = (unit * 99)[: max(2 * size, LEAST)]
    for offset in range(80):
        before = "".join(random.Random(offset).choices(letters.upper(), k=offset))
        said = scrub(f"{before}{run}. Then.", known(unit))
        assert said.removed == (len(run) // size - 1) * size, offset
        assert scrub(f"{before}{run[:-1]}. Then.", known(unit)).removed in (0, said.removed)
        assert len(run) > LEAST or scrub(f"{before}{run[:-1]}. Then.", known(unit)).removed == 0
