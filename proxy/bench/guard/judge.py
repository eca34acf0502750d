"""What a trial shows, held against what a sound engine says.

Must not: forgive: a byte more, another finish reason or another call is a difference.
Invariant: a trial of which nothing tripped and which differs from the sound engine's counts as missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.bench.guard.cells import Cell
from proxy.bench.guard.trial import Said, Trial


@dataclass(frozen=True, slots=True)
class Verdict:
    """detector: which tripped first, "" = none. tripped_at: token of the response, None = none tripped.

    delay: tokens between the first wrong one and the trip, None = there was no wrong one (or no trip).
    leaked_call, leaked_text: bytes that left and a sound engine would not have sent. equal: the client got in the end
    what it must. blamed: the culprit that the record names. milliseconds: of the first rewind, None = there was none.
    """

    detector: str
    tripped_at: int | None
    delay: int | None
    leaked_call: int
    leaked_text: int
    equal: bool
    blamed: str
    milliseconds: float | None

    @property
    def missed(self) -> bool:
        return not self.detector and not self.equal


def judge(cell: Cell, trial: Trial, sound: Said, healed: tuple[int, ...] | None = None) -> Verdict:
    """sound: what a sound engine says in plain decoding with the cell's codec. healed: ids that stood when a rewind had
    thrown the rest away, and what a sound `plain/full` says after them; None = the cell does not ask for it."""
    equal = trial.said.ids == healed if healed is not None else _is_right(cell, trial, sound)
    first = trial.incidents[0] if trial.incidents else None
    text, calls = trial.sent_before if first is not None else (trial.said.text, trial.said.calls)
    if healed is None or not equal:  # else what came after the trip is what it must be
        calls = trial.said.calls
    leaked_calls = [call for at, call in enumerate(calls) if at >= len(sound.calls) or sound.calls[at] != call]
    rewound = next((c for i, c in zip(trial.incidents, trial.closures, strict=False) if i.action == "rewind"), None)
    return Verdict(
        detector=first.detector if first is not None else "",
        tripped_at=first.position if first is not None else None,
        delay=_delay(trial, sound),
        leaked_call=sum(len(name.encode()) + len(arguments.encode()) for name, arguments in leaked_calls),
        leaked_text=len(text[_common(text, sound.text) :].encode()),
        equal=equal,
        blamed=_blamed(trial),
        milliseconds=None if rewound is None else rewound.milliseconds,
    )


def _is_right(cell: Cell, trial: Trial, sound: Said) -> bool:
    match cell.heals:
        case "honest_failure":
            return trial.said.end.startswith("failed: ") and sound.text.startswith(trial.said.text)
        case "event":
            return trial.said.same(sound) and not trial.incidents
    return trial.said.same(sound)


def _delay(trial: Trial, sound: Said) -> int | None:
    """Tokens up to the first trip are those that stood and those that it threw away."""
    if not trial.incidents or not trial.captures or (capture := trial.captures[0]) is None:
        return None
    decoded = (*capture.kept_ids, *capture.lost_ids)
    wrong = _common(decoded, sound.ids)
    return max(0, trial.incidents[0].position - wrong) if wrong < len(decoded) else None


def _blamed(trial: Trial) -> str:
    """The last word on the first incident."""
    if not trial.incidents:
        return ""
    first = trial.incidents[0].id
    judged = [judgement.culprit for judgement in trial.judgements if judgement.id == first]
    closed = [closure.culprit for closure in trial.closures if closure.id == first]
    return str([*closed, *judged][-1]) if closed or judged else ""


def _common(one: Sequence[object], other: Sequence[object]) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(one), len(other)))
