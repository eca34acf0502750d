"""How a fault is put on top of a sound server: on what the model says, on tokens, on chunks, on bytes, or on HTTP.

Must not: know which faults there are; `defects` lists them.
Invariant: faults compose: each gets what the one before it made, layer by layer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.upstreams.dialects import Chunk, Dialect
from tests.upstreams.replies import Piece, Reply

if TYPE_CHECKING:
    from tests.upstreams.lanes import Asked


class Signal(Enum):
    """What happens to the connection instead of another frame. HANG: nothing, until the client leaves."""

    RESET = auto()
    CLOSE = auto()
    HANG = auto()


Frame = bytes | Signal
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, by what it changes; what is None stays as it is. gzip: the body is compressed, asked for or not;
    headers: of the response, instead of the sound ones."""

    says: Callable[[Reply, Asked], Reply] | None = None
    pieces: Callable[[Iterator[Piece]], Iterator[Piece]] | None = None
    chunks: Callable[[Iterator[Chunk], Dialect], Iterator[Chunk | Frame]] | None = None
    frames: Callable[[Iterator[Frame]], Iterator[Frame]] | None = None
    http: Callable[[Asked, Dialect], web.Response] | None = None
    gzip: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


def data(content: Any) -> bytes:
    """One frame."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def framed(chunks: Iterator[Chunk | Frame]) -> Iterator[Frame]:
    """A sound stream's end is `[DONE]`; after a signal there is none."""
    for chunk in chunks:
        if isinstance(chunk, Signal):
            yield chunk
            return
        yield chunk if isinstance(chunk, bytes) else data(chunk)
    yield DONE
