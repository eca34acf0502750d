"""What is done to the bytes of a sound stream, and what is answered instead of one.

Must not: know what the frames say. Invariant: nothing is collected, so a line without an end costs nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from aiohttp import web

from tests.upstreams.dialects import Dialect
from tests.upstreams.faults import Fault, Frame, Signal
from tests.upstreams.lanes import Asked

LONG = 8 << 20


def tiny(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Every byte in a write of its own."""
    for frame in frames:
        if isinstance(frame, Signal):
            yield frame
        else:
            yield from (frame[n : n + 1] for n in range(len(frame)))


def rewritten(change: Callable[[bytes], bytes]) -> Fault:
    def frames(stream: Iterator[Frame]) -> Iterator[Frame]:
        for frame in stream:
            yield frame if isinstance(frame, Signal) else change(frame)

    return Fault(frames=frames)


def no_done(frames: Iterator[Frame]) -> Iterator[Frame]:
    for frame in frames:
        if frame != b"data: [DONE]\n\n":
            yield frame


def until_the_finish(frames: Iterator[Frame]) -> Iterator[Frame]:
    """A clean end of the body before anything says that it is the end."""
    for frame in frames:
        if isinstance(frame, bytes) and (b'"finish_reason":"' in frame):
            return
        yield frame


def done_twice(frames: Iterator[Frame]) -> Iterator[Frame]:
    yield from frames
    yield b"data: [DONE]\n\n"


def escaped(frame: bytes) -> bytes:
    """JSON that escapes everything above ASCII: a smiley is two escapes."""
    if not frame.startswith(b"data: {"):
        return frame
    return b"data: " + json.dumps(json.loads(frame.removeprefix(b"data: "))).encode() + b"\n\n"


def one_long_line(frames: Iterator[Frame]) -> Iterator[Frame]:
    yield next(frames)
    yield b'data: {"choices":[{"index":0,"delta":{"content":"'
    for _ in range(LONG // (1 << 16)):
        yield b"a" * (1 << 16)
    yield b'"},"finish_reason":null}]}\n\n'
    yield from frames


def line_without_end(frames: Iterator[Frame]) -> Iterator[Frame]:
    yield next(frames)
    yield b"data: "
    while True:
        yield b"a" * (1 << 16)


def only_comments(frames: Iterator[Frame]) -> Iterator[Frame]:
    for _ in range(200):
        yield b": keep-alive\n\n"


def comments_between(frames: Iterator[Frame]) -> Iterator[Frame]:
    for frame in frames:
        yield b":\n\n"
        yield b": OPENROUTER PROCESSING\n\n"
        yield frame
        yield b"event: ping\nid: 7\nretry: 10\n\n"


def page(status: int, body: str, content_type: str, **headers: str) -> Fault:
    def answer(asked: Asked, dialect: Dialect) -> web.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, text=body, content_type=content_type, headers=names)

    return Fault(http=answer)


def refuses(status: int, message: str, **headers: str) -> Fault:
    def answer(asked: Asked, dialect: Dialect) -> web.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(dialect.error(status, message), status=status, headers=names)

    return Fault(http=answer)
