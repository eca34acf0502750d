"""Several sinks as one: each hears everything, whatever another one does."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

from structlog.testing import capture_logs

from proxy.incidents import Closure, Incident
from proxy.sinks import Sinks

INCIDENT = Incident(**{f.name: f"{f.name}!" for f in fields(Incident)})  # type: ignore[arg-type]
CLOSURE = Closure("id!", "recovered", "model", "certain", "stop", 1.0, 0, 5, 3)
JUDGEMENT: Any = SimpleNamespace(id="id!", culprit="kv")


class Heard:
    """Remembers what it is told, then fails if it was asked to."""

    def __init__(self, fails: bool = False) -> None:
        self.told: list[Any] = []
        self._fails = fails

    def opened(self, incident: Incident, capture: Any = None) -> None:
        self._hear(("opened", incident, capture))

    def closed(self, closure: Closure) -> None:
        self._hear(("closed", closure))

    def judged(self, judgement: Any) -> None:
        self._hear(("judged", judgement))

    def _hear(self, record: Any) -> None:
        self.told.append(record)
        if self._fails:
            raise RuntimeError("full")


def test_everybody_hears_everything_and_a_failure_is_logged() -> None:
    first, second = Heard(fails=True), Heard()
    sinks = Sinks((first, second))
    capture: Any = object()
    with capture_logs() as logs:
        sinks.opened(INCIDENT, capture)
        sinks.closed(CLOSURE)
        sinks.judged(JUDGEMENT)
    assert second.told == [("opened", INCIDENT, capture), ("closed", CLOSURE), ("judged", JUDGEMENT)]
    assert first.told == second.told
    failed = [(line["sink"], line["record"], line["incident"]) for line in logs if line["event"] == "sink.failed"]
    assert failed == [("Heard", "opened", INCIDENT.id), ("Heard", "closed", "id!"), ("Heard", "judged", "id!")]


def test_sinks_are_a_sink() -> None:
    heard = Heard()
    Sinks((Sinks((heard,)), heard)).opened(INCIDENT)
    assert heard.told == [("opened", INCIDENT, None)] * 2


def test_no_sink_at_all_is_fine() -> None:
    Sinks(()).closed(CLOSURE)
