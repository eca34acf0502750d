"""What a trip says against its mode: nothing, a suspicion, or a proof."""

from __future__ import annotations

import pytest

from policies.accusation import CERTAIN, LIKELY, UNPROVEN, Accusation, accuse
from policies.modes import PLAIN, DecodeMode

BOTH, DRAFTS, CODES = DecodeMode("mtp+ngram", "k4v4"), DecodeMode("mtp+ngram"), DecodeMode("none", "k4v4")


@pytest.mark.parametrize(
    ("detector", "action", "mode", "culprit", "certainty", "outcome", "expected"),
    [
        # an audit needs neither the end of the response nor a comparison
        ("drift.audit", "rewind", DRAFTS, "", "none", "", Accusation("speculation", CERTAIN)),
        ("drift.audit", "end", BOTH, "speculation", "certain", "ended", Accusation("speculation", CERTAIN)),
        ("tool.schema", "rewind", DRAFTS, "", "none", "", None),
        ("tool.schema", "rewind", DRAFTS, "speculation", "certain", "recovered", Accusation("speculation", CERTAIN)),
        ("tool.schema", "rewind", DRAFTS, "speculation", "likely", "recovered", Accusation("speculation", LIKELY)),
        ("loop.period", "rewind", CODES, "kv", "likely", "recovered", Accusation("kv", LIKELY)),
        ("loop.period", "rewind", BOTH, "unknown", "none", "recovered", Accusation("unknown", UNPROVEN)),
        ("drift.nonfinite", "end", BOTH, "unknown", "none", "ended", Accusation("unknown", UNPROVEN)),
        # nobody compared anything
        ("loop.period", "rewind", BOTH, "unknown", "none", "abandoned", None),
        # the model, a filter, a kept prefix
        ("loop.period", "rewind", BOTH, "model", "certain", "recovered", None),
        ("tool.schema", "rewind", BOTH, "grammar", "likely", "recovered", None),
        ("tool.schema", "rewind", BOTH, "prefix_cache", "certain", "recovered", None),
        # nothing was changed: observe mode, or a step that is merely late
        ("drift.audit", "none", BOTH, "speculation", "certain", "observed", None),
        # the loop was in the history before anything was generated
        ("loop.history", "start", BOTH, "unknown", "none", "recovered", None),
        ("drift.dead_drafter", "rewind", BOTH, "speculation", "certain", "recovered", None),
        ("tool.held", "end", BOTH, "unknown", "none", "ended", None),
        # plain decoding cannot be left, and verdicts that do not fit a mode say nothing about it
        ("tool.schema", "end", PLAIN, "unknown", "none", "ended", None),
        ("drift.audit", "rewind", CODES, "", "none", "", None),
        ("tool.schema", "rewind", CODES, "speculation", "certain", "recovered", None),
        ("tool.schema", "rewind", DRAFTS, "kv", "certain", "recovered", None),
        # a later judgement outweighs the audit
        ("drift.audit", "rewind", BOTH, "kv", "certain", "recovered", Accusation("kv", CERTAIN)),
    ],
)
def test_who_is_accused(
    detector: str,
    action: str,
    mode: DecodeMode,
    culprit: str,
    certainty: str,
    outcome: str,
    expected: Accusation | None,
) -> None:
    assert accuse(detector, action, mode, culprit, certainty, outcome) == expected
