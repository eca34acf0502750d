"""Blame between two lanes: by what is said, and by the tokens where they are told."""

from __future__ import annotations

from detectors.parts import Part
from policies.blame import END_OF_TURN, Blame, Culprit
from policies.modes import DecodeMode
from proxy.backends.base import Token
from proxy.guard.spelling import Spelling
from proxy.replays.lane_blame import LaneBlame

FAST = DecodeMode("mtp")


def tokens(*said: str, ids: list[int] | None = None) -> list[Token]:
    return [Token(ids[at] if ids else hash(text), text, parts=(Part("text", text),)) for at, text in enumerate(said)]


def judged(then: list[Token], now: list[Token], *, with_ids: bool = True, mode: DecodeMode = FAST) -> tuple[str, str]:
    spelling = Spelling()
    words = tuple(letter for token in then for letter in spelling.spell(token))

    def made(said: tuple[int, ...]) -> Blame:
        return Blame(mode, 3, (*said, END_OF_TURN), began=3, exact=False)

    blame = LaneBlame(made(words), made(tuple(token.id for token in then)) if with_ids else None, 3)
    for at, token in enumerate(now, 3):
        blame.redecoded(at, token.id, token)
    blame.redecoded(3 + len(now), END_OF_TURN, None)
    verdict = blame.verdict()
    return verdict.culprit, verdict.certainty


def test_other_words_convict_what_was_switched_off() -> None:
    for with_ids in (True, False):
        assert judged(tokens("a", "b"), tokens("a", "c"), with_ids=with_ids) == (Culprit.SPECULATION, "likely")


def test_two_things_at_once_convict_nobody() -> None:
    assert judged(tokens("a"), tokens("c"), mode=DecodeMode("mtp", "k4v4")) == (Culprit.UNKNOWN, "none")
    assert judged(tokens("a"), tokens("c"), mode=DecodeMode("none", "k4v4")) == (Culprit.KV, "likely")


def test_the_same_again_is_the_model() -> None:
    for with_ids in (True, False):
        assert judged(tokens("a", "b"), tokens("a", "b"), with_ids=with_ids) == (Culprit.MODEL, "likely")


def test_the_same_words_in_other_pieces_are_the_same() -> None:
    assert judged(tokens("ab"), tokens("a", "b"), with_ids=False) == (Culprit.MODEL, "likely")


def test_the_same_tokens_that_are_read_otherwise_are_the_servers_parser() -> None:
    assert judged(tokens("a", "b", ids=[1, 2]), tokens("a", "c", ids=[1, 2])) == (Culprit.UNKNOWN, "none")


def test_an_end_is_a_difference_too() -> None:
    assert judged(tokens("a", "b"), tokens("a"), with_ids=False) == (Culprit.SPECULATION, "likely")


def test_the_same_finding_again_is_the_model() -> None:
    blame = LaneBlame(Blame(FAST, 0, tuple(Spelling().spell(Token(1, "abc"))), began=0, exact=False), None, 0)
    blame.redecoded(0, 97, Token(97, "a"))
    assert blame.verdict().culprit == Culprit.UNKNOWN
    blame.recur()
    assert (blame.verdict().culprit, blame.differs) == (Culprit.MODEL, False)
