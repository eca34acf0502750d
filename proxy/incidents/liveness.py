"""Whether anybody who may close an open incident is still alive, told by the operating system.

Must not: go by clocks or process ids, which are reused and differ between containers.
Invariant: whoever writes to a store holds a shared lock on the file beside it for as long as its process lives; the
system drops it when the process dies, however it does. So who gets the lock for himself knows that nobody is left.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Final

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # no such locks on this system: what is open stays open
    fcntl = None

SUFFIX: Final = "-alive"


class Presence:
    """A writer's lock."""

    def __init__(self, store: Path) -> None:
        self._file = os.open(f"{store}{SUFFIX}", os.O_CREAT | os.O_RDWR, 0o600)

    def is_alone(self) -> bool:
        """Takes the lock for itself alone if it can; `settle` then lets others in again."""
        return _locked(self._file)

    def settle(self) -> None:
        """Shares the lock; waits while another writer looks for what the dead have left."""
        if fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_SH)

    def end(self) -> None:
        os.close(self._file)


def may_have_writers(store: Path) -> bool:
    """Is some process alive that writes to the store? True also where the system cannot tell."""
    try:
        file = os.open(f"{store}{SUFFIX}", os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:  # not ours to lock
        return True
    try:
        return fcntl is None or not _locked(file)
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    if fcntl is None:
        return False
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
