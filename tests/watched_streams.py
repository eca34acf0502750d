"""Every stream that a server in this process sends, or an encoder makes, is checked against the rules of its API.

Must not: change a byte, or judge what is no stream of ours.
Invariant: what was seen since the last look is checked once; a stream that ended cleanly on the socket is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

from aiohttp import web

from proxy.events import Started
from proxy.server.app import SERVICE
from proxy.wire.anthropic_messages import AnthropicEncoder
from proxy.wire.openai_chat import OpenAIChatEncoder
from proxy.wire.openai_responses import OpenAIResponsesEncoder
from tests.proxy.wire import chat_order, messages_order, responses_order
from tests.proxy.wire.frames import read_frames

RULES: dict[str, Callable[[Any], Any]] = {
    "/v1/chat/completions": chat_order.check,
    "/v1/responses": responses_order.check,
    "/v1/messages": messages_order.check,
}
PATHS: dict[type, str] = {
    OpenAIChatEncoder: "/v1/chat/completions",
    OpenAIResponsesEncoder: "/v1/responses",
    AnthropicEncoder: "/v1/messages",
}


@dataclass(slots=True)
class Stream:
    """path: of the API. clean: its end was written, and the connection was left open for more."""

    path: str
    sent: bytearray = field(default_factory=bytearray)
    clean: bool = False

    def check(self) -> None:
        order = RULES[self.path](read_frames(bytes(self.sent)))
        assert order.complete or not self.clean, "a broken stream ended as if it were complete"


class Watch:
    """Streams of all tests. checked: how many so far."""

    def __init__(self) -> None:
        self.checked = 0
        self._encoding = False
        self._streams: list[Stream] = []
        self._of: WeakKeyDictionary[Any, Stream] = WeakKeyDictionary()

    def check(self) -> None:
        """Raises AssertionError."""
        streams, self._streams = self._streams, []
        self._of.clear()
        for stream in streams:
            stream.check()
            self.checked += 1

    def _stream(self, maker: Any, path: str) -> Stream:
        if maker not in self._of:
            self._of[maker] = Stream(path)
            self._streams.append(self._of[maker])
        return self._of[maker]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Wraps what sends and what encodes."""
        with ExitStack() as stack:
            for encoder, path in PATHS.items():
                for name in ("encode", "keep_alive", "error"):
                    made = self._encodes(getattr(encoder, name), path)
                    stack.enter_context(patch.object(encoder, name, made))
            stack.enter_context(patch.object(web.StreamResponse, "write", self._writes(web.StreamResponse.write)))
            ended = self._ends(web.StreamResponse.write_eof)
            stack.enter_context(patch.object(web.StreamResponse, "write_eof", ended))
            yield

    def _encodes(self, encode: Callable[..., bytes], path: str) -> Callable[..., bytes]:
        def watched(encoder: Any, *given: Any) -> bytes:
            if self._encoding:  # one of these methods calls another
                return encode(encoder, *given)
            began = encoder in self._of
            self._encoding = True
            try:
                frames = encode(encoder, *given)
            finally:
                self._encoding = False
            # tests of a single frame skip the start, which a guarded session never does
            if began or not given or isinstance(given[0], Started):
                self._stream(encoder, path).sent += frames
            return frames

        return watched

    def _sent(self, response: Any, data: bytes) -> None:
        if response.content_type != "text/event-stream":  # a request that could not be read has no application
            return
        http = response._req
        if SERVICE in http.app and http.path in RULES:
            self._stream(response, http.path).sent += data

    def _writes(self, write: Callable[..., Any]) -> Callable[..., Any]:
        async def watched(response: Any, data: bytes) -> None:
            self._sent(response, data)
            await write(response, data)

        return watched

    def _ends(self, end: Callable[..., Any]) -> Callable[..., Any]:
        async def watched(response: Any, data: bytes = b"") -> None:
            if data and response._req is not None:
                self._sent(response, data)
            stream = self._of.get(response)
            if stream is not None and response._req is not None:  # else its end was written before
                transport = response._req.transport
                stream.clean = transport is not None and not transport.is_closing()
            await end(response, data)

        return watched
