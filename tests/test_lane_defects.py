"""Every documented defect of a server, in two servers of each kind, by every API: the client gets what the plain lane
says, or an honest end, never anything invalid; incidents name nobody who cannot be at fault; and no stream is left open
that nobody reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import jsonschema
import pytest

from proxy.incidents import Record
from proxy.lanes.distrust import contexts_of
from tests.proxy.lanes.pool import known, two_lanes
from tests.proxy.lanes.pool import pool as served
from tests.proxy.lanes.told import APIS as PATHS
from tests.proxy.lanes.told import body, told
from tests.proxy.live import CHAT, LS_SCHEMA
from tests.upstreams.all_defects import DEFECTS
from tests.upstreams.defects import Defect
from tests.upstreams.dialects import Kind
from tests.upstreams.heard import APIS, Api, Heard
from tests.upstreams.lanes import Asked, Lane, every_time, only_without_salt
from tests.upstreams.pool import Pool, pool
from tests.upstreams.replies import Call, Reply, Text, Thinking

MARKUP = ("<tool_call>", "</tool_call>", "<function=", "<parameter=", "</parameter>", "</function>")
LEAK_LIMIT = 4096
"""Characters of a loop that may be delivered before it is one, at most: the window of the slowest detector."""
PATIENCE = {"first_s": 20.0, "between_s": 20.0, "total_s": 40.0}


def marks(number: int, place: int, defect: Defect) -> list[pytest.MarkDecorator]:
    """Each defect runs always in one dialect, and in all of them where there is time."""
    return [] if place == number % len(defect.dialects) else [pytest.mark.slow]


CASES = [
    pytest.param(defect, kind, id=f"{name}-{kind}", marks=marks(number, place, defect))
    for number, (name, defect) in enumerate(DEFECTS.items())
    for place, kind in enumerate(defect.dialects)
    if not defect.slow
]
SLOW = [
    pytest.param(defect, kind, api, id=f"{name}-{kind}-{api}")
    for name, defect in DEFECTS.items()
    if defect.slow
    for kind, api in zip(defect.dialects[:1], APIS, strict=False)
]
ALONE = [case for case in CASES if not case.marks]
ENDLESS = PATIENCE | {"total_s": 3.0, "event_bytes": 1 << 20}


def text_of(reply: Reply) -> str:
    return "".join(part.text for part in reply.parts if isinstance(part, Text))


def calls_of(reply: Reply) -> list[tuple[str, Any]]:
    return [(part.name, dict(part.arguments)) for part in reply.parts if isinstance(part, Call)]


def check_nothing_invalid_left(heard: Heard) -> None:
    for name, arguments in heard.parsed:
        assert name == "ls"
        jsonschema.validate(arguments, LS_SCHEMA)
    for tag in MARKUP:
        assert tag not in heard.text, f"markup of calls in the text: {heard.text[:300]!r}"
    assert (heard.error is None) != (heard.end is None), "an error or an end, one of both"


def outcome_of(heard: Heard, defect: Defect, incidents: Sequence[Record]) -> str:
    """`same`, `healed` or `ended`; anything else is told in words."""
    text, calls = text_of(defect.sound), calls_of(defect.sound)
    if heard.error is not None or heard.is_cut:
        if heard.error is not None and not incidents:
            return "ended, and no incident tells of it"
        if [call for call in heard.parsed if call not in calls]:
            return "ended, but with a call that nobody meant"
        if not defect.leaks and not text.startswith(heard.text.partition("[specguard]")[0].rstrip()):
            return f"ended after another text: {heard.text[:200]!r}"
        return "ended"
    if incidents and not heard.parsed and "[specguard]" in heard.text:
        return "ended"
    if heard.parsed != calls and not (defect.repeats and set(map(str, heard.parsed)) == set(map(str, calls))):
        return f"a success with the calls {heard.parsed}"
    if heard.text.strip() != text.strip() and not defect.leaks:
        return f"a success with the text {heard.text[:200]!r}"
    return "healed" if incidents else "same"


async def check(running: Pool, defect: Defect, kind: Kind, api: Api, stream: bool = True) -> Heard:
    before = {record.id for record in await running.live.incidents()}
    asked = running.asked
    heard = await running.ask(api, stream=stream)
    await running.live.idle()
    assert running.asked > asked, "the fast lane was not asked, so its defect was not met"
    incidents = [record for record in await running.live.incidents() if record.id not in before]
    check_nothing_invalid_left(heard)
    thought = "".join(part.text for part in defect.sound.parts if isinstance(part, Thinking))
    assert defect.leaks or heard.thinking.count(thought or "\0") <= 1, "the same thoughts twice"
    allowed = set(defect.gets)
    if stream and kind == "openai" and "healed" in allowed:
        allowed.add("ended")  # such a lane cannot go on behind text that was delivered
    told = [(record.opened["detector"], record.opened["reason"]) for record in incidents]
    assert outcome_of(heard, defect, incidents) in allowed, (api, heard, told)
    if not heard.is_cut and defect.leaks != "*":
        assert len(heard.text) < len(text_of(defect.sound)) + LEAK_LIMIT
    for incident in incidents:
        assert incident.opened["mode_before"] != "plain", "it is the fast lane that has it"
        assert incident.culprit in defect.blames | {"unknown"}, told
        assert incident.certainty != "certain", "nobody vouches for either server"
        assert incident.opened["capabilities"]["lanes"]["fast"]["url"] == running.fast.base
    return heard


@pytest.mark.parametrize(("defect", "kind"), CASES)
async def test_the_client_is_spared(defect: Defect, kind: Kind) -> None:
    async with pool(kind, defect.lane(), Lane(defect.sound), lanes=PATIENCE) as running:
        for api in APIS:
            await check(running, defect, kind, api)
        await running.left()


@pytest.mark.parametrize(("defect", "kind", "api"), SLOW)
async def test_what_does_not_end_is_ended(defect: Defect, kind: Kind, api: Api) -> None:
    """Not before its time: nobody asked for fewer tokens."""
    async with pool(kind, defect.lane(), Lane(defect.sound), lanes=ENDLESS) as running:
        async with asyncio.timeout(90):
            heard = await check(running, defect, kind, api)
        await running.left()
        assert heard.is_cut or await running.live.incidents(), "at its limit, or with an incident"


@pytest.mark.parametrize(("defect", "kind"), CASES)
async def test_what_is_not_streamed_shows_nothing_of_it(defect: Defect, kind: Kind) -> None:
    """Nothing has been sent that the plain lane would have to go on behind."""
    async with pool(kind, defect.lane(), Lane(defect.sound), lanes=PATIENCE) as running:
        for api in APIS:
            before = len(await running.live.incidents())
            heard = await check(running, defect, kind, api, stream=False)
            healed = len(await running.live.incidents()) > before and "[specguard]" not in heard.text
            if healed and heard.error is None and not heard.is_cut:
                assert (heard.text.strip(), heard.parsed) == (text_of(defect.sound).strip(), calls_of(defect.sound))
        await running.left()


def until_written_anew() -> Callable[[Asked], bool]:
    """llama.cpp knows no salt: what is in a slot is damaged until a prompt is read into it without what is there."""
    anew = False

    def strikes(asked: Asked) -> bool:
        nonlocal anew
        anew |= asked.body.get("cache_prompt") is False
        return not anew

    return strikes


@pytest.mark.parametrize(("defect", "kind"), ALONE)
async def test_where_both_lanes_have_it_nothing_invalid_leaves(defect: Defect, kind: Kind) -> None:
    """There is nobody who could heal it: the client gets what is good of it, or an honest end."""
    async with pool(kind, defect.lane(), defect.lane(), lanes=PATIENCE) as running:
        for api in APIS:
            before = {record.id for record in await running.live.incidents()}
            heard = await running.ask(api)
            await running.live.idle()
            incidents = [record for record in await running.live.incidents() if record.id not in before]
            check_nothing_invalid_left(heard)
            assert all(call in calls_of(defect.sound) for call in heard.parsed)
            said = (heard.text.strip(), heard.parsed) == (text_of(defect.sound).strip(), calls_of(defect.sound))
            assert said or heard.error is not None or heard.is_cut or incidents, (api, heard)
            assert all(incident.certainty != "certain" for incident in incidents)
        await running.left()


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize("name", ["arguments_empty", "command_in_key", "arguments_loop"])
async def test_a_poisoned_prefix_is_left_behind(name: str, kind: Kind) -> None:
    """Both lanes share a damaged prefix cache; only a request with a salt of its own does not meet it."""
    defect = DEFECTS[name]
    fast, plain = defect.lane(), defect.lane()
    fast.strikes = plain.strikes = only_without_salt
    async with served(two_lanes(kind, fast, plain), lanes=PATIENCE) as running:
        for path in PATHS:
            heard = told(path, *await running.post(path, body(path)))
            assert (heard.error, heard.calls) == ("", calls_of(defect.sound))
        salts = [seen.body.get("cache_salt") for seen in running.upstream.of("plain")]
        assert len(salts) == len(set(salts)) == len(PATHS) and all(salts)
        records = await running.incidents()
        assert {record.opened["changed"]["cache_salt"] for record in records} == {"fresh"}
        assert {record.closed["outcome"] for record in records if record.closed} == {"recovered"}


@pytest.mark.parametrize(
    ("kind", "why"), [("vllm", "known-bad"), ("vllm", "breaker"), ("sglang", "breaker"), ("llamacpp", "breaker")]
)
async def test_a_poisoned_prefix_is_left_behind_where_the_fast_lane_is_out_of_service(kind: Kind, why: str) -> None:
    """The plain lane begins, and shares the damaged prefix cache; what heals a fall back has to heal this, too."""
    defect = DEFECTS["arguments_empty"]
    fast, plain = defect.lane(), defect.lane()
    fast.strikes = plain.strikes = until_written_anew() if kind == "llamacpp" else only_without_salt
    bad = {"speculation": "mtp", "kv": "turboquant_k8v4", "prefix_cache": True} if why == "known-bad" else {}
    prober = known(kind, **bad)
    async with served(two_lanes(kind, fast, plain), prober, lanes=PATIENCE) as running:
        watch, keeper = running.service.lane_watch, running.service.keeper
        assert watch is not None and keeper is not None
        mode = watch.lanes[0].mode
        for context in contexts_of(8192) if why == "breaker" else ():
            keeper.distrust(str(mode), context, "tripped", "unknown", cool_down=True)
        for number, path in enumerate(PATHS):
            for _ in range(2):
                heard = told(path, *await running.post(path, body(path), x_session_id=f"agent-{number}"))
                assert (heard.error, heard.calls) == ("", calls_of(defect.sound))
        assert not running.upstream.of("fast"), "it is out of service"
        assert not await running.incidents(), "nothing of it is met"
        asked = running.upstream.of("plain")
        if kind == "llamacpp":
            assert [seen.body.get("cache_prompt", True) for seen in asked] == [False, True] * 3
            return
        salts = [seen.body.get("cache_salt") for seen in asked]
        assert salts[::2] == salts[1::2], "the next turn finds its own prefix"
        assert all(salts) and len(set(salts)) == 3
        plain.strikes = every_time
        await running.post(CHAT, body(CHAT), x_session_id=f"agent-{PATHS.index(CHAT)}")
        await running.post(CHAT, body(CHAT), x_session_id=f"agent-{PATHS.index(CHAT)}")
        tripped = [seen.body["cache_salt"] for seen in running.upstream.of("plain")[6:]]
        assert tripped[0] == salts[2 * PATHS.index(CHAT)] and tripped[-1] not in salts, (
            "what it has tripped on is not taken over again"
        )
