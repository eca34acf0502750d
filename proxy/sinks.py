"""Several incident sinks as one: the store, the breaker, metrics, an automatic replay.

Must not: let one sink keep an incident from the others, or raise into a response.
Invariant: every sink hears every record once, in the order of the tuple.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from proxy.incidents import Closure, Incident, IncidentSink, Judgement
from proxy.replays.capture import Capture

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sinks:
    """members: told in this order, so the store comes first: what another one does with a record is on its way then."""

    members: tuple[IncidentSink, ...]

    def opened(self, incident: Incident, capture: Capture | None = None) -> None:
        self._tell(lambda sink: sink.opened(incident, capture), "opened", incident.id)

    def closed(self, closure: Closure) -> None:
        self._tell(lambda sink: sink.closed(closure), "closed", closure.id)

    def judged(self, judgement: Judgement) -> None:
        self._tell(lambda sink: sink.judged(judgement), "judged", judgement.id)

    def _tell(self, tell: Callable[[IncidentSink], None], kind: str, incident: str) -> None:
        for sink in self.members:
            try:
                tell(sink)
            except Exception:
                log.exception("sink.failed", sink=type(sink).__name__, record=kind, incident=incident)
