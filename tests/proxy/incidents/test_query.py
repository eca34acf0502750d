"""Which incidents are found, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.incidents import IncidentStore
from tests.proxy.incidents.samples import CLOSURE, INCIDENT, JUDGEMENT


@pytest.fixture
def store(tmp_path: Path) -> Iterator[IncidentStore]:
    """inc_0 to inc_4; detectors in turn, inc_3 is judged, inc_4 not closed."""
    store = IncidentStore(tmp_path / "i.sqlite")
    for i in range(5):
        detector = "loop.period" if i % 2 else "tool.schema"
        store.opened(replace(INCIDENT, id=f"inc_{i}", detector=detector, session="ab"[i // 3]))
        if i < 4:
            store.closed(replace(CLOSURE, id=f"inc_{i}", culprit="model" if i == 1 else "speculation"))
    store.judged(replace(JUDGEMENT, id="inc_3"))
    store.flush()
    yield store
    store.close()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, "43210"),
        ({"limit": 2}, "43"),
        ({"before": "inc_2"}, "10"),
        ({"detector": "loop.period"}, "31"),
        ({"detector": "loop.*"}, "31"),
        ({"detector": "*.schema"}, "420"),
        ({"detector": "LOOP.*"}, ""),
        ({"culprit": "speculation"}, "20"),
        ({"culprit": "kv"}, "3"),
        ({"session": "b"}, "43"),
        ({"session": "b", "detector": "tool.*", "limit": 9}, "4"),
        ({"since": "9999"}, ""),
        ({"since": "2000-01-01T00:00:00.000Z"}, "43210"),
        ({"session": "' OR 1=1 --"}, ""),
    ],
)
def test_a_selection(store: IncidentStore, wanted: dict[str, Any], found: str) -> None:
    assert "".join(record.id[-1] for record in store.list(**wanted)) == found


def test_the_beginning_of_an_id(store: IncidentStore) -> None:
    for name in ("inc_44", "inc_45", "inc_46"):
        store.opened(replace(INCIDENT, id=name))
    store.opened(replace(INCIDENT, id="inc_%"))
    store.flush()
    assert [record.id for record in store.find("inc_4")] == ["inc_4"]
    assert [record.id for record in store.find("inc", 3)] == ["inc_46", "inc_45", "inc_44"]
    assert [record.id for record in store.find("inc_%")] == ["inc_%"]
    assert store.find("inc_5") == []
    exact = store.get("inc_4")
    assert exact is not None and exact.id == "inc_4"
    assert store.get("inc_") is None


def test_events_come_in_the_order_of_writing_and_can_be_taken_up(store: IncidentStore) -> None:
    told = list(store.events(source="/here"))
    assert [event["id"] for _, event in told[:3]] == ["inc_0/opened", "inc_0/closed", "inc_1/opened"]
    assert (told[-1][1]["id"], told[-1][1]["type"]) == ("inc_3/judged", "dev.specguard.incident.judged.v1")
    assert told[0][1]["type"] == "dev.specguard.incident.opened.v1"
    assert told[0][1]["data"]["detector"] == "tool.schema"
    assert [number for number, _ in told] == sorted({number for number, _ in told})
    assert {event["source"] for _, event in told} == {"/here"}
    cut = told[4][0]
    assert list(store.events(after=cut, source="/here")) == told[5:]
    assert list(store.events(since="9999")) == []
    assert len({event["id"] for _, event in told}) == len(told) == 10
