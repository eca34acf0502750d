"""Equal elements in JSON arguments: what a stuck model writes, and the data that only looks like it."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.elements import ElementRun, ElementRuns, ElementSettings
from detectors.finding import Grade


def runs(value: Any, size: int = 1, settings: ElementSettings | None = None, **style: Any) -> list[ElementRun]:
    """value: JSON text, or what becomes some."""
    data = (value if isinstance(value, str) else json.dumps(value, **style)).encode()
    detector = ElementRuns(settings or ElementSettings())
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return [run for at, piece in enumerate(pieces) if (run := detector.feed(piece, at)) is not None]


def told(value: Any, **style: Any) -> list[tuple[str, int]]:
    return [(run.grade.name, run.copies) for run in runs(value, **style)]


WORDS = [("SUSPECT", 16), ("FALLBACK", 64)]


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ("General/Systemic-related symptoms: ", WORDS),
        ({"text": "so", "done": False}, WORDS),
        ([["abc"], {}], WORDS),
        ('quoted " \\ \n text', WORDS),
        (197, [("SUSPECT", 64)]),
        (0.0, [("SUSPECT", 64)]),
        (None, [("SUSPECT", 64)]),
        ("", [("SUSPECT", 64)]),
        ([0, 0, 1, 0], [("SUSPECT", 64)]),
        ({}, [("SUSPECT", 64)]),
        ([], [("SUSPECT", 64)]),
    ],
)
def test_one_element_again_and_again(element: Any, expected: list[tuple[str, int]]) -> None:
    assert told({"a": [element] * 300}) == expected
    assert told([1, *[element] * 300], indent=2) == expected
    assert told([[element] * 50]) == (expected[:1] if expected == WORDS else [])


def test_a_new_run_is_told_anew_and_where_it_began() -> None:
    text = "[" + "abcd ,".join(['"x yz",'] * 17) + "]"
    assert told(text) == []
    text = "[" + '"x yz",' * 16 + "1," + '"x yz",' * 16 + "1]"
    first, second = runs(text)
    assert (first.position, first.began) == (16 * 7, 7)  # bytes; an element ends at its comma
    assert (second.position - first.position, second.began) == (16 * 7 + 2, 7 * 17 + 2)


@pytest.mark.parametrize(
    "value",
    [
        [{"id": n, "status": "pending"} for n in range(300)],
        ["so", "and so"] * 200,
        [{"a": "same"} if n % 2 else {"b": "same"} for n in range(300)],
        [["one"], "one"] * 100,
        {f"k{n}": "same value" for n in range(300)},
        ["ab" * n for n in range(200)],
    ],
)
def test_what_differs_is_no_run(value: Any) -> None:
    assert told(value) == []


def test_spacing_does_not_count_but_blanks_in_text_do() -> None:
    assert told("[" + "".join(f'{{"a":{" " * (n % 5)}"word"}},' for n in range(40)) + "1]") == WORDS[:1]
    assert told([f"a{' ' * (n % 5)}word" for n in range(100)]) == []


JSON = st.recursive(
    st.sampled_from(["", "a", "ab", "abc", 'q"', "\\", "é", 0, 1.5, None, True]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "key"]), inner, max_size=2),
    max_leaves=6,
)


def has_word(value: Any) -> bool:
    if isinstance(value, dict):
        return any(len(key) >= 3 or has_word(item) for key, item in value.items())
    if isinstance(value, list):
        return any(map(has_word, value))
    return isinstance(value, str) and len(json.dumps(value, ensure_ascii=False).encode()) - 2 >= 3


@given(st.lists(JSON, max_size=12), st.integers(1, 7))
def test_against_the_definition(elements: list[Any], size: int) -> None:
    """Runs of the outer list, counted from the parsed value; thresholds so low that any pair speaks."""
    settings = ElementSettings(data_suspect=2, words_suspect=2, words_fallback=3)
    # Elements are wrapped so that their own lists have one element each, and cannot speak for themselves.
    wrapped = [json.dumps(element) for element in elements]
    expected = []
    for same, group in groupby(wrapped):
        words, copies = has_word(same), len(list(group))
        expected += ["SUSPECT"] if copies >= 2 else []
        expected += ["FALLBACK"] if words and copies >= 3 else []
    found = runs(wrapped, size, settings, ensure_ascii=False)
    assert [run.grade.name for run in found] == expected


@given(st.lists(JSON, max_size=8).map(lambda each: each * 3), st.integers(1, 9), st.booleans())
def test_the_cut_does_not_matter(value: list[Any], size: int, indented: bool) -> None:
    settings = ElementSettings(data_suspect=3, words_suspect=2, words_fallback=4)
    style = {"indent": 1} if indented else {}
    whole = [(r.grade, r.copies, r.words, r.position // size) for r in runs(value, 1, settings, **style)]
    cut = [(r.grade, r.copies, r.words, r.position) for r in runs(value, size, settings, **style)]
    # Of several in one piece the gravest is told, the first of equal ones.
    kept: dict[int, Any] = {}
    for each in whole:
        if each[3] not in kept or each[0] > kept[each[3]][0]:
            kept[each[3]] = each
    assert cut == list(kept.values())


def test_open_containers_are_all_it_remembers() -> None:
    detector = ElementRuns()
    detector.feed(b"[" * 100 + b'{"a":"b"},' * 1000, 0)
    assert detector.depth == 101


def test_the_last_element_ends_with_its_array() -> None:
    assert told(["word"] * 63) == WORDS[:1]
    assert told(["word"] * 64) == WORDS


def test_a_finding() -> None:
    finding = runs(["word"] * 64)[-1].finding("tool:1")
    assert (finding.detector, finding.grade, finding.channel) == ("loop.elements", Grade.FALLBACK, "tool:1")
    assert finding.began < finding.position
    assert finding.evidence == {"copies": 64, "words": True}
