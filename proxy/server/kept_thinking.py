"""What the model thought in its latest turns, for clients that do not send it back.

Chat templates render the thinking of a turn inside a tool loop (Qwen's until the next message of the user; others for
ever). A client that drops it would show the model another past than it had, and send every prefix another way than one
that keeps it. A turn with calls is known again by the id of its first one, which only we have given out; one without
by everything that was visible up to its end.

Must not: write anything to disk, grow without bound, or give one key's thinking to another.
Invariant: thinking that a client sends is never replaced, and a turn whose text or first tool it changed gets none.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

import orjson

from proxy.conversation import ChatRequest, Message
from proxy.events import Event, Finished, TextDelta, ThinkingDelta, ToolCall

MAX_TURNS = 4096
MAX_CHARS = 1 << 24


class KeptThinking:
    """The turn used longest ago goes first. chars: of all thinking that is kept."""

    def __init__(self, turns: int = MAX_TURNS, chars: int = MAX_CHARS) -> None:
        self._most, self._most_chars = turns, chars
        self._kept: OrderedDict[bytes, str] = OrderedDict()
        self._chars = 0

    def restored(self, owner: str, request: ChatRequest) -> tuple[ChatRequest, int]:
        """The request with what its turns were thought with, and how many got it back. owner: see `access`."""
        if not self._kept or not any(_bare(message) for message in request.messages):
            return request, 0
        messages = [
            message if key is None else replace(message, thinking=self._get(key))
            for message, key in zip(request.messages, _keys(owner, request), strict=True)
        ]
        count = sum(bool(new.thinking) for new in messages) - sum(bool(old.thinking) for old in request.messages)
        return replace(request, messages=tuple(messages)), count

    def listener(self, owner: str, request: ChatRequest) -> Listener:
        """For the events of one response; what was thought is kept when it is complete."""
        return Listener(self, owner, request)

    def keep(self, owner: str, request: ChatRequest, thinking: str, text: str, first: ToolCall | None) -> None:
        """What a turn was thought with. first: of its calls."""
        self._keep(_key_of(owner, request, text, first), thinking)

    def _get(self, key: bytes) -> str:
        """ "" for a turn that is not known."""
        if key not in self._kept:
            return ""
        self._kept.move_to_end(key)
        return self._kept[key]

    def _keep(self, key: bytes, thinking: str) -> None:
        self._chars += len(thinking) - len(self._kept.pop(key, ""))
        self._kept[key] = thinking
        while self._kept and (len(self._kept) > self._most or self._chars > self._most_chars):
            self._chars -= len(self._kept.popitem(last=False)[1])


class Listener:
    """An `Observer` of one response."""

    def __init__(self, kept: KeptThinking, owner: str, request: ChatRequest) -> None:
        self._kept, self._owner, self._request = kept, owner, request
        self._thinking: list[str] = []
        self._text: list[str] = []
        self._first: ToolCall | None = None

    def saw(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._text.append(event.text)
        elif isinstance(event, ThinkingDelta):
            self._thinking.append(event.text)
        elif isinstance(event, ToolCall):
            self._first = self._first or event
        elif isinstance(event, Finished) and self._thinking:
            thinking, text = "".join(self._thinking), "".join(self._text)
            self._kept.keep(self._owner, self._request, thinking, text, self._first)

    def ended(self, outcome: str) -> None:
        """Nothing is kept of what did not come to its end."""


def _bare(message: Message) -> bool:
    return message.role == "assistant" and not message.thinking


def _keys(owner: str, request: ChatRequest) -> Iterator[bytes | None]:
    """Of each turn of the model that came without thinking; None for all other messages."""
    needed = any(_bare(message) and not message.calls for message in request.messages)
    visible = _Visible(owner)
    for message in request.messages:
        if needed:
            visible.add(message)
        if not _bare(message):
            yield None
        elif message.calls:
            yield _call_key(owner, message.calls[0].id, message.calls[0].name, message.text)
        else:
            yield visible.key()


def _key_of(owner: str, request: ChatRequest, text: str, first: ToolCall | None) -> bytes:
    """Of the turn that answers a request, as `_keys` will find it in the next one."""
    if first is not None:
        return _call_key(owner, first.id, first.name, text)
    visible = _Visible(owner)
    for message in (*request.messages, Message("assistant", text)):
        visible.add(message)
    return visible.key()


def _call_key(owner: str, call_id: str, name: str, text: str) -> bytes:
    """APIs write ids with a prefix of their own, and tools of a namespace by their last name."""
    parts = ("call", owner, call_id.rpartition("_")[2], name, _same(text))
    return hashlib.sha256(orjson.dumps(parts)).digest()


def _same(text: str) -> str:
    """Without white space, which clients trim and join anew."""
    return "".join(text.split())


class _Visible:
    """A conversation without thinking and ids, hashed message by message."""

    def __init__(self, owner: str) -> None:
        self._hash = hashlib.sha256(orjson.dumps(["visible", owner]))

    def add(self, message: Message) -> None:
        text = _same(message.text) if message.role == "assistant" else message.text.strip()
        calls = [[call.name, dict(call.arguments)] for call in message.calls]
        try:
            said = orjson.dumps([message.role, text, calls], option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:  # arguments that are nested too deeply to be told apart
            said = orjson.dumps([message.role, text])
        self._hash.update(said)

    def key(self) -> bytes:
        return self._hash.digest()
