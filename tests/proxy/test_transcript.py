"""The transcript: what stands, what was thrown away, and what it cost."""

from __future__ import annotations

from policies.modes import PLAIN
from proxy.backends.base import Audit, Delta, RewindReport, StepStats, Token
from proxy.transcript import Transcript
from tests.proxy.scripted import FAST


def step(audit: Audit | None = None) -> StepStats:
    return StepStats(FAST, "mtp", 3, 2, 5.0, 40, audit)


def filled(count: int) -> Transcript:
    transcript = Transcript()
    for i in range(count):
        transcript.append(Token(i, str(i)))
    return transcript


def test_tokens_stand_until_they_are_rewound() -> None:
    transcript = filled(5)
    transcript.rewound(RewindReport(2, 3, 2, 7.0, PLAIN))
    assert transcript.ids == (0, 1)
    assert [token.text for token in transcript.tokens] == ["0", "1"]
    assert (len(transcript), transcript.discarded, transcript.decode_ms) == (2, 3, 7.0)


def test_steps_are_counted_whatever_becomes_of_them() -> None:
    transcript = Transcript()
    transcript.count(step(Audit(4, None)))
    transcript.count(step(Audit(4, 1)))
    transcript.count(step())
    assert (transcript.drafted, transcript.accepted, transcript.decode_ms) == (9, 6, 15.0)
    assert (transcript.audits, transcript.mismatches, transcript.context) == (2, 1, 40)


def test_the_rest_of_a_delta() -> None:
    delta = Delta(3, (Token(3, ""), Token(4, ""), Token(5, "")), step())
    assert filled(3).end_of(delta) == (3, 4, 5)
    assert filled(5).end_of(delta) == (5,)
    assert filled(6).end_of(delta) == ()
