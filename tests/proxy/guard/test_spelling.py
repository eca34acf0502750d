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
