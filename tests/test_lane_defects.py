"""Every documented defect of a server, by every API: the client gets what the plain lane says, or an honest end, never
anything invalid; incidents name nobody who cannot be at fault; and no stream is left open that nobody reads.
"""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from proxy.incidents import Record
from tests.proxy.live import LS_SCHEMA
from tests.upstreams.all_defects import DEFECTS
from tests.upstreams.defects import Defect
from tests.upstreams.dialects import Kind
from tests.upstreams.heard import APIS, Api, Heard
from tests.upstreams.lanes import Lane
from tests.upstreams.pool import Pool, pool
from tests.upstreams.replies import Call, Reply, Text

MARKUP = ("<tool_call>", "</tool_call>", "<function=", "<parameter=", "</parameter>", "</function>")
LEAK_LIMIT = 4096
"""Characters of a loop that may be delivered before it is one, at most: the window of the slowest detector."""
CASES = [
    pytest.param(defect, kind, api, id=f"{name}-{kind}-{api}")
    for name, defect in DEFECTS.items()
    for kind in defect.dialects
    for api in APIS
    if not defect.slow
]
SLOW = [
    pytest.param(defect, kind, api, id=f"{name}-{kind}-{api}")
    for name, defect in DEFECTS.items()
    if defect.slow
    for kind, api in zip(defect.dialects, (*APIS, APIS[0]), strict=False)
]


def text_of(reply: Reply) -> str:
    return "".join(part.text for part in reply.parts if isinstance(part, Text))


def calls_of(reply: Reply) -> list[tuple[str, Any]]:
    return [(part.name, dict(part.arguments)) for part in reply.parts if isinstance(part, Call)]


def check_nothing_invalid_left(heard: Heard, defect: Defect) -> None:
    for name, arguments in heard.parsed:
        assert name == "ls"
        jsonschema.validate(arguments, LS_SCHEMA)
    for tag in MARKUP:
        assert tag not in heard.text, "markup of calls in the text"
    if heard.error is not None:
        assert heard.end is None, "an end and an error"
    else:
        assert heard.end is not None, "a stream that just stops"


def outcome_of(heard: Heard, defect: Defect, incidents: list[Record]) -> str:
    """`same`, `healed` or `ended`; anything else is told in words."""
    text, calls = text_of(defect.sound), calls_of(defect.sound)
    if heard.error is not None or heard.is_cut:
        if [call for call in heard.parsed if call not in calls]:
            return "ended, but with a call that nobody meant"
        if not defect.leaks and not text.startswith(heard.text):
            return f"ended after another text: {heard.text[:200]!r}"
        return "ended"
    if heard.parsed != calls:
        return f"a success with the calls {heard.parsed}"
    said = heard.text if not defect.leaks else heard.text[: len(text)]
    if said.strip() != text.strip() and not defect.leaks:
        return f"a success with the text {heard.text[:200]!r}"
    return "healed" if incidents else "same"


async def check(pool_: Pool, defect: Defect, api: Api) -> None:
    heard = await pool_.ask(api)
    await pool_.live.idle()
    incidents = list(await pool_.live.incidents())
    check_nothing_invalid_left(heard, defect)
    assert outcome_of(heard, defect, incidents) in defect.gets, (heard, [i.opened["detector"] for i in incidents])
    if not heard.is_cut:
        assert len(heard.text) < len(text_of(defect.sound)) + LEAK_LIMIT
    for incident in incidents:
        assert incident.opened["mode_before"] != "plain", "the fast lane had it"
        culprit = (incident.closed or {}).get("culprit", "unknown")
        assert culprit in defect.blames | {"unknown"}
    await pool_.left()


@pytest.mark.parametrize(("defect", "kind", "api"), CASES)
async def test_the_client_is_spared(defect: Defect, kind: Kind, api: Api) -> None:
    async with pool(kind, defect.lane(), Lane(defect.sound)) as found:
        await check(found, defect, api)


@pytest.mark.parametrize(("defect", "kind", "api"), SLOW)
async def test_what_does_not_end_is_ended(defect: Defect, kind: Kind, api: Api) -> None:
    async with pool(kind, defect.lane(), Lane(defect.sound)) as found:
        await check(found, defect, api)
