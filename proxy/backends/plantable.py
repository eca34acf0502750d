"""Names of the faults that the built-in engine can plant, for those who must not import it.

Must not: explain them (engine.faults does). Invariant: the names are exactly the engine's.
"""

from __future__ import annotations

PLANTABLE = (
    "verify-ignores-cache",
    "keys-scaled",
    "tile-lost",
    "nan-at-position",
    "argmax-acceptance",
    "rejected-drafts-kept",
    "recurrent-not-rolled-back",
    "stale-recurrent-slot",
    "far-context",
    "poisoned-prefix",
    "flipped-argument",
    "dead-drafter",
    "step-hangs",
    "worker-dies",
    "keys-unrotated",
    "codes-scaled",
    "values-halved",
    "codes-damaged",
)
