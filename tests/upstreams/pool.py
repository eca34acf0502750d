"""A guarded server in front of two scripted ones: the fast lane and the plain lane of a pool.

Must not: reach into either; what the lanes were asked is in their records, what was sent is what a client hears.
Invariant: what the guard asks of its own accord (probing, canaries) is answered soundly by both lanes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from proxy.backends.lanes import LanesBackend
from proxy.configuration.config import Config
from tests.proxy.live import ANTHROPIC_TOOLS, CHAT, MESSAGES, OPENAI_TOOLS, RESPONSES, RESPONSES_TOOLS, Live, serving
from tests.upstreams.dialects import Kind
from tests.upstreams.heard import Api, Heard, hear, hear_whole
from tests.upstreams.lanes import Asked, Lane
from tests.upstreams.replies import Reply, Text
from tests.upstreams.server import Upstream

TASK = "go, and do what there is to be done"
PATHS: Mapping[Api, str] = {"chat": CHAT, "responses": RESPONSES, "messages": MESSAGES}
TOOLS: Mapping[Api, Any] = {"chat": OPENAI_TOOLS, "responses": RESPONSES_TOOLS, "messages": ANTHROPIC_TOOLS}
MODEL = "pool"
OWN = Reply((Text("12"),))
"""What is answered to a question that is not the test's."""


@dataclass(frozen=True, slots=True)
class Pool:
    """live: the guarded server. fast, plain: the servers behind it, which may be one."""

    live: Live
    fast: Upstream
    plain: Upstream

    async def ask(self, api: Api, **fields: Any) -> Heard:
        """The task, with a tool; streamed, unless `stream` says otherwise."""
        asked: dict[str, Any] = {"model": MODEL, "stream": True, "tools": TOOLS[api]}
        asked["input" if api == "responses" else "messages"] = [{"role": "user", "content": TASK}]
        asked |= fields
        return (hear if asked["stream"] else hear_whole)(api, await self.live.post(PATHS[api], **asked))

    @property
    def asked(self) -> int:
        """How often the fast lane was given the task."""
        return sum(TASK in str(seen.body) for seen in self.fast.chats if seen.lane != "plain")

    async def left(self) -> None:
        """Waits until every stream of the lanes is known to have ended, at whoever's wish."""
        for seen in {id(seen): seen for seen in [*self.fast.chats, *self.plain.chats]}.values():
            await seen.end()


def guarded(lane: Lane, task: str) -> Lane:
    """The same lane, whose script and defects are for requests about `task`."""
    says, strikes = lane.says, lane.strikes

    def of_the_test(asked: Asked) -> bool:
        return any(task in str(message.get("content")) for message in asked.messages)

    lane.says = lambda asked: (says if isinstance(says, Reply) else says(asked)) if of_the_test(asked) else OWN
    lane.strikes = lambda asked: of_the_test(asked) and strikes(asked)
    return lane


@asynccontextmanager
async def pool(
    kind: Kind, fast: Lane, plain: Lane, *, router: bool = False, lanes: Any = None, task: str = TASK, **more: Any
) -> AsyncIterator[Pool]:
    """router: both lanes are one server, told apart by model. task: what the test's own requests say. lanes: further
    keys of the section; more: of both servers, but for sections of the configuration, which are dicts."""
    sections = {name: more.pop(name) for name in list(more) if isinstance(more[name], dict)}
    sections = {"breaker": {"canary_tokens": 0}} | sections
    more = {"caches": False} | more
    if router:
        both = Upstream(kind, {"fast": guarded(fast, task), "plain": guarded(plain, task)}, **more)
        servers = (both,)
    else:
        servers = (
            Upstream(kind, {"m": guarded(fast, task)}, **more),
            Upstream(kind, {"m": guarded(plain, task)}, **more),
        )
    async with servers[0].running(), servers[-1].running() if not router else servers[0].running():
        section: dict[str, Any] = {
            "fast": {"url": servers[0].base, "kind": kind, "model": "fast" if router else ""},
            "plain": {"url": "" if router else servers[-1].base, "kind": kind, "model": "plain" if router else ""},
            "retries": 0,
        }
        settings = Config.model_validate({"lanes": section | (lanes or {}), "model": {"name": MODEL}, **sections})
        backend: Any = LanesBackend(settings.lanes, name=MODEL)
        async with serving(backend, **settings.model_dump()) as live:
            assert live.service.ready, live.service.failure
            yield Pool(live, servers[0], servers[-1])
