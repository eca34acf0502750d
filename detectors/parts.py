"""What one token says, where an upstream has told the channels apart already.

Must not: hold anything that a wire format has beyond that. Invariant: plain, frozen data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Part:
    """Text of one channel. Of a call: text is a piece of its arguments as JSON, index its number in the upstream's
    count, name what it is called, "" in all but the first piece."""

    channel: Literal["text", "thinking", "call"]
    text: str = ""
    index: int = 0
    name: str = ""
