"""The faults of the matrix: in which mode each is planted, who is to blame, and what the guard must make of it.

Must not: say how a fault is found. Invariant: every fault that an engine can plant has a cell (tested).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Heals = Literal["same_codec", "full", "honest_failure", "event"]
"""What the client must have got in the end. same_codec: what plain decoding with this codec says from the first token
on. full: from the last delivered token on what `plain/full` says. honest_failure: an error, and nothing bad before it.
event: what it would have got anyway, and no incident."""


@dataclass(frozen=True, slots=True)
class Cell:
    """fault: as `--plant` names it. culprit: `policies.blame.Culprit`, "" where there is none.

    temperature: the tasks are drawn at it, None = as they are. prelude: with a context of more than 1,000 tokens.
    warm: each task is asked twice, and judged the second time, when its prompt is a kept prefix. fresh: an engine of
    its own for each task, and only the first few, since the fault takes the engine with it.
    """

    fault: str
    mode: str
    culprit: str
    heals: Heals
    temperature: float | None = None
    prelude: bool = False
    warm: bool = False
    fresh: bool = False


FULL, CODED = "mtp+ngram/full", "mtp+ngram/k4v4"

# Numbers are lost in every mode, plain decoding included: there it is the forward itself, which is the model's.
CELLS = (
    Cell("verify-ignores-cache", FULL, "speculation", "same_codec"),
    Cell("verify-ignores-cache", CODED, "speculation", "same_codec"),
    Cell("rejected-drafts-kept", FULL, "speculation", "same_codec"),
    Cell("recurrent-not-rolled-back", FULL, "speculation", "same_codec"),
    Cell("stale-recurrent-slot", FULL, "speculation", "same_codec"),
    Cell("far-context", FULL, "speculation", "same_codec", prelude=True),
    Cell("flipped-argument", FULL, "speculation", "same_codec"),
    Cell("argmax-acceptance", FULL, "speculation", "same_codec", temperature=0.8),
    Cell("nan-at-position", FULL, "model", "same_codec"),
    Cell("keys-unrotated", CODED, "kv", "full"),
    Cell("codes-scaled", CODED, "kv", "full"),
    Cell("values-halved", CODED, "kv", "full"),
    Cell("codes-damaged", CODED, "kv", "full"),
    Cell("poisoned-prefix", FULL, "prefix", "same_codec", warm=True),
    Cell("dead-drafter", FULL, "", "event"),
    Cell("step-hangs", FULL, "", "honest_failure", fresh=True),
    Cell("worker-dies", FULL, "", "honest_failure", fresh=True),
)
