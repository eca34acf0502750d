"""Which tokens' log-probabilities come with which text."""

from __future__ import annotations

from policies.modes import PLAIN
from proxy.backends.base import Alternative, RewindReport, Token
from proxy.events import Logprob
from proxy.guard.logprobs import LogprobLedger
from proxy.guard.transcript import Transcript


def ledger(*texts: str) -> tuple[LogprobLedger, Transcript]:
    transcript = Transcript()
    for index, text in enumerate(texts):
        transcript.append(token(index, text))
    return LogprobLedger(transcript), transcript


def token(index: int, text: str) -> Token:
    return Token(index, text, -float(index), data=b"%d" % index)


def ids(entries: tuple[Logprob, ...]) -> list[int]:
    return [int(entry.data) for entry in entries]


def test_a_token_comes_once_with_its_first_text() -> None:
    found, _ = ledger("ab", "c")
    assert ids(found.due(0)) == [0]
    assert ids(found.due(0)) == []
    assert ids(found.due(1)) == [1]


def test_tokens_without_text_come_with_the_one_that_completes_it() -> None:
    found, _ = ledger("a", "", "", "\u20ac", "", "b")
    assert [ids(found.due(position)) for position in (0, 3, 5)] == [[0], [1, 2, 3], [4, 5]]


def test_what_is_no_text_is_left_out() -> None:
    found, _ = ledger("a", "<tool_call>", "", "x", "</tool_call>", "", "b")
    assert [ids(found.due(position)) for position in (0, 6)] == [[0], [5, 6]]


def test_text_that_only_the_end_releases_belongs_to_the_last_token() -> None:
    found, _ = ledger("a", "", "")
    assert [ids(found.due(position)) for position in (0, 2, 3)] == [[0], [1, 2], []]


def test_a_rewind_does_not_report_again() -> None:
    found, transcript = ledger("a", "b", "", "c")
    assert [ids(found.due(position)) for position in (0, 1)] == [[0], [1]]
    transcript.rewound(RewindReport(2, 2, 0, 0.0, PLAIN))
    transcript.append(token(7, "d"))
    assert [ids(found.due(position)) for position in (1, 2)] == [[], [7]]


def test_numbers_and_alternatives_are_passed_on() -> None:
    transcript = Transcript()
    transcript.append(Token(5, "a", -0.5, data=b"a", top=(Alternative(5, b"a", -0.5), Alternative(9, b"\xe2", -1.5))))
    transcript.append(Token(6, "b"))
    found = LogprobLedger(transcript)
    assert found.due(0) == (Logprob(b"a", -0.5, ((b"a", -0.5), (b"\xe2", -1.5))),)
    assert found.due(1) == (), "nobody has told its number"
