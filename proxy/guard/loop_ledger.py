"""Loops that were cut in earlier responses of a conversation, and their way out of its history.

Must not: keep any text, write to disk, or grow without bound. Invariant: a request is changed only where a loop is
known to have been cut, and what is left of it is what a second scrub would leave.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from detectors.history_scrub import LoopDigest, scrub_turn
from proxy.conversation import ChatRequest, Message

MAX_CONVERSATIONS = 1024
MAX_LOOPS = 8


class LoopLedger:
    """Of one server; a restart forgets it. The conversation that was used longest ago goes first.

    A response that ended in a loop says so at its end, in words that come back with it; it needs no ledger.
    """

    def __init__(self, conversations: int = MAX_CONVERSATIONS) -> None:
        self._most = conversations
        self._loops: OrderedDict[str, tuple[LoopDigest, ...]] = OrderedDict()

    def remember(self, conversation: str, loop: LoopDigest) -> None:
        """Some of this loop was sent before it was cut. conversation: holds whose it is."""
        before = tuple(known for known in self._loops.pop(conversation, ()) if known != loop)
        self._loops[conversation] = (*before, loop)[-MAX_LOOPS:]
        while len(self._loops) > self._most:
            self._loops.popitem(last=False)

    def scrub(self, conversation: str, request: ChatRequest) -> tuple[ChatRequest, int]:
        """(the request with one copy of each such loop, characters that were taken out)."""
        known = self._loops.get(conversation, ())
        if known:
            self._loops.move_to_end(conversation)
        messages: list[Message] = []
        removed = 0
        for message in request.messages:
            if message.role == "assistant":
                text, thinking, count = scrub_turn(message.text, message.thinking, known)
                if count:
                    message = replace(message, text=text, thinking=thinking)
                    removed += count
            messages.append(message)
        return (replace(request, messages=tuple(messages)), removed) if removed else (request, 0)
