"""Records: who is to blame, what state an incident is in, and what goes out of the house."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from proxy.incidents import Record, new_incident_id
from tests.proxy.incidents.samples import CAPTURE, CLOSURE, INCIDENT, JUDGEMENT

OPEN = Record("inc_1", "2026-01-02T03:04:05.678Z", asdict(INCIDENT))
CLOSED = replace(OPEN, closed_at="2026-01-02T03:04:06.000Z", closed=asdict(CLOSURE))
JUDGED = replace(CLOSED, judged_at="2026-01-02T03:05:00.000Z", judged=asdict(JUDGEMENT))


def test_a_judgement_counts_more_than_the_closure() -> None:
    assert (OPEN.culprit, OPEN.certainty) == ("", "")
    assert (CLOSED.culprit, CLOSED.certainty) == ("speculation", "certain")
    assert (JUDGED.culprit, JUDGED.certainty) == ("kv", "certain")


def test_the_state() -> None:
    assert [OPEN.state, replace(OPEN, died=True).state, CLOSED.state] == ["open", "died", "recovered"]


def test_an_event_holds_all_records_and_nothing_that_was_said() -> None:
    opened = asdict(replace(INCIDENT, texts={"before": "said"}, evidence={"unexpected": ["said"], "byte": 3}))
    event = replace(JUDGED, opened=opened, capture=CAPTURE.plain()).cloud_event("/here")
    assert (event["specversion"], event["id"], event["source"], event["subject"]) == ("1.0", "inc_1", "/here", "req_1")
    data = event["data"]
    assert (data["state"], data["closed"]["culprit"], data["judged"]["culprit"]) == ("recovered", "speculation", "kv")
    assert data["opened"]["evidence"] == {"byte": 3, "withheld": ["unexpected"]}
    text = json.dumps(event)
    assert "said" not in text
    assert "quiet" not in text
    assert OPEN.cloud_event()["data"]["closed"] is None


def test_ids_sort_by_time() -> None:
    ids = [new_incident_id() for _ in range(200)]
    assert len(set(ids)) == 200
    assert all(i.startswith("inc_") and len(i) == 30 for i in ids)
    assert ids[0][:12] <= ids[-1][:12]
