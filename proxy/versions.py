"""Which versions of what a response was made with.

Must not: import anything only to ask for its version. Invariant: torch is named if it is loaded.
"""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def own_version() -> str:
    """Of the installed distribution; "source" where there is none."""
    try:
        return version("specguard")
    except PackageNotFoundError:
        return "source"


_FIXED = {"specguard": own_version(), "python": platform.python_version()}


def versions() -> dict[str, str]:
    """Name -> version."""
    torch = sys.modules.get("torch")
    return _FIXED if torch is None else {**_FIXED, "torch": str(getattr(torch, "__version__", "unknown"))}
