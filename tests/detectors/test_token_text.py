"""Facts about single tokens."""

from __future__ import annotations

import pytest

from detectors.token_text import NUMBER, WORD, read


def test_numbers_of_any_length_have_one_code() -> None:
    assert read("7").code == read("123").code
    assert read(" 7a").code == read(" 12a").code != read(" 7b").code
    assert read("7").digits
    assert read("a7").ends_in_digit
    assert not read("7a").ends_in_digit


def test_the_code_knows_words_and_numbers() -> None:
    assert read(" go").code & WORD
    assert not read(" go").code & NUMBER
    assert read("46").code & NUMBER
    assert not read("46").code & WORD
    assert read("0").code & NUMBER  # its digits are replaced by themselves
    assert read("_").code & (WORD | NUMBER) == 0


@pytest.mark.parametrize(
    ("text", "base64", "breaks", "capital"),
    [
        ("AAAA", 4, False, True),
        (" AbC", 3, True, True),
        ("ab+/=", 5, False, False),
        ("a b", 1, True, False),
        ("", 0, False, False),
    ],
)
def test_what_could_be_base64(text: str, base64: int, breaks: bool, capital: bool) -> None:
    facts = read(text)
    assert (facts.base64, facts.breaks, facts.capital) == (base64, breaks, capital)


@pytest.mark.parametrize("text", ["(", ' "', "_", "7", "\n    ", "{}"])
def test_code_is_known_by_its_signs(text: str) -> None:
    assert read(text).symbol


@pytest.mark.parametrize("text", [" go", ".", ", ", "\n", "\n\n", "\u2019s", "?", " wörld"])
def test_prose_has_few_signs(text: str) -> None:
    assert not read(text).symbol


def test_one_character_repeated() -> None:
    assert read("\n\n\n").single == "\n"
    assert read("a").single == "a"
    assert read("ab").single == ""
    assert read("").single == ""


def test_lone_surrogates_are_read() -> None:
    assert read("\ud800").code == read("\ud800").code
