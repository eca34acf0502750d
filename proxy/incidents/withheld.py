"""What an incident keeps where nobody asked for captures: numbers and our own words, nothing that was said.

Must not: let a name or a path through that the model may have written, or token ids, which are text to whoever has
the tokenizer. Invariant: what is left out is named in `withheld`, so that a reader knows that it was there.

Kept although it is the client's: names of declared tools (`Incident.tool`), paths into their schemas, the session's
key, and a SHA-256 of the prompt, which tells one who has the prompt already that it was this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Kind = Literal["opened", "closed", "judged", "died"]

WITHHELD = "withheld"
_WORDS = frozenset(
    (
        "keyword schema_path missing exactness mended scripts codec bucket mode side check compared lane failure "
        "other_lane other_failure"
    ).split()
)
"""Evidence that is no number and still none of the model's text: our words, and those of a declared schema."""
_IDS = frozenset({"token", "id", "ids"})
_AXIS = frozenset({"axis", "mode", "name", "prefix", "reason"})


def without_text(kind: Kind, data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a record without anything that a client or a model has said."""
    kept = dict(data)
    if kind == "opened":
        kept.pop("texts", None)
        kept["evidence"] = _bare(data.get("evidence") or {}, _WORDS)
    elif kind == "closed":
        kept["proof"] = _bare(data.get("proof") or {}, frozenset({"culprit", "certainty"}))
    elif kind == "judged":
        kept["axes"] = [_bare(row, _AXIS) for row in data.get("axes") or ()]
    return kept


def _bare(values: Mapping[str, Any], words: frozenset[str]) -> dict[str, Any]:
    kept = {name: value for name, value in values.items() if name in words or _is_number(name, value)}
    before: Sequence[str] = values.get(WITHHELD) or ()
    left_out = [*before, *(name for name in values if name not in kept and name != WITHHELD)]
    return {**kept, WITHHELD: left_out} if left_out else kept


def _is_number(name: str, value: Any) -> bool:
    return name not in _IDS and (value is None or isinstance(value, bool | int | float))
