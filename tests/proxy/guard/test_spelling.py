"""What tokens say as numbers: the same for the same words in the same channels, however they are cut."""

from __future__ import annotations

from detectors.parts import Part
from proxy.backends.base import Token
from proxy.guard.spelling import Spelling


def spelt(*tokens: tuple[Part, ...] | str) -> list[int]:
    spelling = Spelling()
    made = [Token(at, each) if isinstance(each, str) else Token(at, "", parts=each) for at, each in enumerate(tokens)]
    return [letter for token in made for letter in spelling.spell(token)]


def test_cuts_do_not_matter() -> None:
    whole = spelt((Part("text", "héllo"), Part("call", '{"a"}', 0, "ls")))
    cut = spelt(
        (Part("text", "hé"),), (), (Part("text", "llo"),), (Part("call", "", 0, "ls"),), (Part("call", '{"a"}'),)
    )
    assert cut == whole


def test_channels_count() -> None:
    assert spelt((Part("text", "a"),)) != spelt((Part("thinking", "a"),))
    assert spelt((Part("call", "a", 0, "f"),)) != spelt((Part("call", "fa", 0, "g"),))
    assert spelt((Part("call", "", 0, "f"),), (Part("call", "", 0, "f"),)) != spelt((Part("call", "", 0, "f"),))


def test_tokens_without_parts_are_text() -> None:
    assert spelt("ab") == spelt((Part("text", "ab"),))


def test_a_call_that_begins_without_a_name_is_said() -> None:
    """Nothing else may be wrong with a response: without it, one that has a name would say the same and more."""
    text = (Part("text", "so"),)
    nameless = spelt(text, (Part("call", "", 0),))
    named = spelt(text, (Part("call", "", 0, "ls"),))
    assert nameless[: len(spelt(text))] == spelt(text)
    assert nameless != named[: len(nameless)]


def test_a_piece_of_a_call_that_says_nothing_is_not_said() -> None:
    began = (Part("call", "{", 0, "ls"),)
    assert spelt(began, (Part("call", "", 0),), (Part("call", "}", 0),)) == spelt(began, (Part("call", "}", 0),))
