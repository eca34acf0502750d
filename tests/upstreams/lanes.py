"""Lanes of a scripted server, what they are asked, and what becomes of it.

Must not: speak HTTP. Invariant: an outcome, once there, stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

from tests.upstreams.dialects import Prefill
from tests.upstreams.replies import Reply, Text

if TYPE_CHECKING:
    from tests.upstreams.faults import Fault

Outcome = Literal["open", "finished", "left", "broken"]
"""left: the client closed the connection; broken: the server itself did, as a defect."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a response. number: how many this lane had before. prefill: text of the response that is to be
    continued. salt: of the prefix cache, "" = none."""

    body: Mapping[str, Any]
    lane: str
    number: int = 0
    prompt_ids: tuple[int, ...] = ()
    prefill: str = ""
    salt: str = ""

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        messages: Sequence[Mapping[str, Any]] = self.body.get("messages", ())
        return messages


Says = Reply | Callable[[Asked], Reply]


def every_time(asked: Asked) -> bool:
    return True


def only_without_salt(asked: Asked) -> bool:
    """A poisoned prefix cache: whoever brings a salt of his own does not meet it."""
    return not asked.salt


@dataclass(slots=True)
class Lane:
    """A model name of the server, or all of the server where it has one lane.

    defects: what is wrong; strikes: in which responses. width: tokens per step. speculation, kv: what the server says
    it runs. accepts: share of the drafted tokens; None = as many as the steps have. prefill: what becomes of a trailing
    assistant message; None = what this kind of server does. near_ties: positions at which another token is as likely.
    """

    says: Says = field(default_factory=lambda: Reply((Text("Hello."),)))
    defects: tuple[Fault, ...] = ()
    strikes: Callable[[Asked], bool] = every_time
    width: int = 1
    speculation: str | None = None
    kv: str = "auto"
    accepts: float | None = None
    prefill: Prefill | None = None
    near_ties: frozenset[int] = frozenset()
    window: int = 8192

    def reply(self, asked: Asked) -> Reply:
        return self.says if isinstance(self.says, Reply) else self.says(asked)


@dataclass(slots=True)
class Seen:
    """A request, and what became of it. frames: of the stream, sent so far."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: Any
    lane: str
    outcome: Outcome = "open"
    frames: int = 0
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, outcome: Outcome) -> None:
        if self.outcome == "open":
            self.outcome = outcome
        self.settled.set()

    async def end(self) -> Outcome:
        """How it ended; fails instead of waiting for ever."""
        async with asyncio.timeout(30):
            await self.settled.wait()
        return self.outcome


@dataclass(slots=True)
class Counters:
    """What `/metrics` tells of a lane."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    running: int = 0


async def no_pause() -> None:
    """Gives the event loop one turn, so that a client that has left is noticed."""
    await asyncio.sleep(0)


SEEN = web.RequestKey("seen", Seen)
"""Where a handler finds the record of its request."""
