"""Every documented defect of a server, in every dialect, through every client API: what the client gets."""

from __future__ import annotations

import json

import pytest

from proxy.lanes.watch import LaneWatch
from tests.proxy.lanes.pool import FULL, Pool, pool, two_lanes
from tests.proxy.lanes.told import APIS, Told, body, told
from tests.upstreams.all_defects import DEFECTS
from tests.upstreams.defects import Defect
from tests.upstreams.dialects import Kind
from tests.upstreams.lanes import Lane
from tests.upstreams.replies import Call, Reply, Text

CASES = [pytest.param(d, kind, id=f"{name}-{kind}") for name, d in DEFECTS.items() if not d.slow for kind in d.dialects]
PATIENCE = {"first_s": 1.0, "between_s": 0.5, "total_s": 20.0, "connect_s": 2.0}


@pytest.fixture(autouse=True)
def each_response_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers everything with one token is asked whether it is poisoned, and then serves nobody."""
    monkeypatch.setattr(LaneWatch, "opened", lambda *_: None)


def text_of(reply: Reply) -> str:
    return "".join(part.text for part in reply.parts if isinstance(part, Text))


def calls_of(reply: Reply) -> list[tuple[str, object]]:
    return [(part.name, dict(part.arguments)) for part in reply.parts if isinstance(part, Call)]


def outcome(got: Told, defect: Defect, incidents: int, seen: str) -> str:
    """same, healed or ended; fails for anything that a client must never get."""
    sound_text, sound_calls = text_of(defect.sound), calls_of(defect.sound)
    assert all(call in sound_calls for call in got.calls), f"a call that is not the sound one was sent: {seen}"
    assert got.error or got.end, f"the stream has no end: {seen}"
    whole = got.calls == sound_calls and not got.error
    if whole and got.text == sound_text:
        return "healed" if incidents else "same"
    if defect.leaks == "*" and got.end in ("length", "incomplete", "max_tokens"):
        return "ended"  # at the limit that everybody sees
    assert incidents, f"something went wrong, and no incident tells of it: {seen}"
    if whole and defect.leaks and got.text.startswith(sound_text[:1]):
        return "healed"
    beyond = got.text.partition("[specguard]")[0].strip()
    assert defect.leaks or sound_text.strip().startswith(beyond) or beyond.startswith(sound_text.strip()), seen
    return "ended"


async def ask(running: Pool, api: str, defect: Defect) -> None:
    before = {record.id for record in await running.incidents()}
    status, answer = await running.post(api, body(api))
    got = told(api, status, answer)
    fresh = [record for record in await running.incidents() if record.id not in before]
    seen = f"{api}: {got}, {[(r.opened['detector'], r.opened['reason']) for r in fresh]}"
    found = outcome(got, defect, len(fresh), seen)
    stuck = bool(got.error) and not FULL[running.upstream.kind].prefill  # its text cannot be continued
    assert found in defect.gets or (stuck and found == "ended"), f"{found}: {seen}"
    for record in fresh:
        assert record.culprit in {*defect.blames, "unknown"}, (record.opened["detector"], record.culprit)
        assert record.certainty != "certain", record.opened["detector"]
        assert record.opened["capabilities"]["lanes"]["fast"]["url"] == running.upstream.base


@pytest.mark.parametrize(("defect", "kind"), CASES)
async def test_what_a_client_gets(defect: Defect, kind: Kind) -> None:
    upstream = two_lanes(kind, defect.lane(), Lane(defect.sound, width=1))
    async with pool(upstream, lanes=PATIENCE) as running:
        for api in APIS:
            await ask(running, api, defect)
        for seen in upstream.chats:
            assert await seen.end() in ("finished", "left", "broken")
            json.dumps(seen.body)
