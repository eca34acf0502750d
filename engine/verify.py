"""The acceptance rule of speculation: a draft stands if it is what plain decoding samples at its place.

Must not: know probabilities; with noise shared by seed and position, equality is the whole test.
Invariant: the tokens taken after a verify step are ids[: accepted + 1], so at least one, and each of them is the
target's own choice: a rejected draft is replaced by the token of its row, and a full run is followed by the last row's.
"""

from __future__ import annotations

from collections.abc import Sequence


def accepted_run(ids: Sequence[int], drafts: Sequence[int]) -> int:
    """Length of the accepted run of drafts.

    ids: what the target chose in the len(drafts) + 1 rows of the step; row i saw the history and drafts[:i]. Raises
    ValueError if the rows are fewer.
    """
    if len(ids) <= len(drafts):
        raise ValueError(f"ids: {len(drafts)} drafts need {len(drafts) + 1} rows, there are {len(ids)}")
    for index, draft in enumerate(drafts):
        if ids[index] != draft:
            return index
    return len(drafts)
