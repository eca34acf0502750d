"""Conversations that a later request takes up by `previous_response_id`: the latest ones, in memory.

Must not: write anything to disk, or grow without bound. Invariant: what is kept ends with the response of that id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from proxy.conversation import Message

MAX_RESPONSES = 1024
MAX_CHARS = 1 << 26
_OBJECT = 200


class KeptResponses:
    """The least recently used one goes first. chars: of all conversations; a shared beginning counts for each."""

    def __init__(self, responses: int = MAX_RESPONSES, chars: int = MAX_CHARS) -> None:
        self._most, self._most_chars = responses, chars
        self._kept: OrderedDict[str, tuple[tuple[Message, ...], int]] = OrderedDict()
        self._chars = 0

    def keep(self, response_id: str, messages: Sequence[Message]) -> None:
        """response_id: may hold whose it is; see `proxy.server.handlers`."""
        size = sum(map(_chars, messages))
        self._kept[response_id] = (tuple(messages), size)
        self._chars += size
        while self._kept and (len(self._kept) > self._most or self._chars > self._most_chars):
            _, (_, dropped) = self._kept.popitem(last=False)
            self._chars -= dropped

    def get(self, response_id: str) -> tuple[Message, ...] | None:
        found = self._kept.get(response_id)
        if found is None:
            return None
        self._kept.move_to_end(response_id)
        return found[0]


def _chars(message: Message) -> int:
    """Of everything a client can make long, and some for the objects themselves."""
    calls = sum(len(call.id) + len(call.name) + _size(call.arguments) + _OBJECT for call in message.calls)
    return len(message.text) + len(message.thinking) + len(message.call_id) + calls + _OBJECT


def _size(arguments: Mapping[str, Any]) -> int:
    try:
        return len(orjson.dumps(dict(arguments)))
    except orjson.JSONEncodeError:  # nested too deeply to be told
        return 1 << 20
