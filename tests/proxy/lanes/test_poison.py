"""One short question tells a poisoned server from a sound one, on every dialect."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from proxy.lanes.asking import Target
from proxy.lanes.heard import Heard
from proxy.lanes.poison import SAME, PoisonCheck, judge
from tests.proxy.lanes.upstreams_of import able, at, serving
from tests.upstreams.dialects import KINDS, Kind
from tests.upstreams.lanes import Lane
from tests.upstreams.replies import Reply, Text
from tests.upstreams.server import Upstream


@pytest.mark.parametrize(
    ("says", "state"), [(None, "sound"), ("!" * 400, "poisoned"), ("/ " * 300, "poisoned"), ("", "unknown")]
)
@pytest.mark.parametrize("kind", KINDS)
async def test_servers(kind: Kind, says: str | None, state: str) -> None:
    lane = able() if says is None else Lane(Reply((Text(says),) if says else ()))
    async with Upstream(kind, {"m": lane}).running() as up:
        check = PoisonCheck({"fast": (at(up), "m")})
        first, second = [await check.ask("fast") for _ in range(2)]
        prompts = {str(seen.body["messages"]) for seen in up.chats}
    assert first.state == second.state == state and check.last["fast"] == second
    assert len(prompts) == 2  # no two share a prefix that could be damaged
    if state == "poisoned":
        assert "restart that server" in first.why and says is not None and says[:4] not in first.why


@pytest.mark.parametrize(
    ("heard", "state"),
    [
        (Heard(token_ids=[7] * SAME), "poisoned"),  # what a parser swallowed is seen by its ids
        (Heard(token_ids=[7] * (SAME - 1), text="hm"), "sound"),
        (Heard(token_ids=[7] * SAME + [8], text="yes it is"), "sound"),
        (Heard(text="!" * (SAME - 1)), "sound"),
        (Heard(text="! " * SAME), "poisoned"),
        (Heard(text="haha" * 9), "sound"),
        (Heard(text="It is" + "!" * 2 * SAME), "poisoned"),
        (Heard(text="It is" + "!" * (2 * SAME - 1)), "sound"),
        (Heard(token_ids=list(range(20))), "sound"),  # a parser swallowed them
        (Heard(token_ids=[2]), "unknown"),  # the end of turn
        (Heard(errors=["out of memory"]), "unknown"),
    ],
)
def test_verdicts(heard: Heard, state: str) -> None:
    assert judge(heard).state == state


@pytest.mark.parametrize("status", [500, 503])
async def test_a_server_that_does_not_answer_is_not_called_poisoned(status: int) -> None:
    async with serving(v1_chat_completions=web.Response(status=status)) as url:
        verdict = await PoisonCheck({"fast": (Target("fast", url), "m")}).ask("fast")
    assert verdict.state == "unknown" and str(status) in verdict.why


async def test_a_server_that_refuses_the_field_is_asked_without_it() -> None:
    async def chat(request: web.Request) -> web.Response:
        body: dict[str, Any] = await request.json()
        if "return_token_ids" in body:
            return web.json_response({"error": "unknown field"}, status=400)
        return web.Response(text='data: {"choices":[{"delta":{"content":"It shows the coast."}}]}\n\n')

    async with serving(v1_chat_completions=chat) as url:
        assert (await PoisonCheck({"fast": (Target("fast", url), "m")}).ask("fast")).state == "sound"
