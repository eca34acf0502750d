"""When cycles of dead objects are looked for: rarely.

Must not: switch the looking off. A traceback can be a cycle, and whoever embeds us may make others.
Invariant: no response needs it: all that one holds is free when it has ended (`tests/test_freed_memory.py`).

To look means to walk through all objects that have come since the last time, each token of each running response among
them, while every stream stands still. Left to itself Python looks once 700 have come, and at them all once 7,000 have:
several times a second under load, in vain.
"""

from __future__ import annotations

import gc

NEW_OBJECTS = 50_000
"""More than have come that are not gone, before Python looks at them: some MiB. A busy server's grow and go with its
responses, so that it hardly ever comes to that."""


def look_rarely() -> None:
    """Of the process, from now on. What is there now stays, such as modules, and is never walked through again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
