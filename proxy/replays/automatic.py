"""Replays by themselves: after a fallback the response is run again while nobody is served, and judged.

Must not: delay a client, keep a capture longer than it takes to judge it, or raise into a response.
Invariant: at most one run at a time; what is remembered is bounded in number and bytes; after `close` nothing runs.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import structlog

from detectors.finding import Grade
from detectors.settings import DEFAULT, DetectorSettings
from proxy.backends.base import Backend, Replayer
from proxy.backends.errors import BackendError
from proxy.incidents import Closure, Incident, Judgement
from proxy.replays.capture import Capture
from proxy.replays.runs import LIMITS, Judged, Limits, Tripped, investigate

log = structlog.get_logger()

MAX_REMEMBERED = 32
MAX_BYTES = 64 << 20
MAX_PREEMPTED = 8
"""Runs of one incident that clients may interrupt before it is given up."""
_CERTAINTIES = ("none", "likely", "certain")
_TOKEN_BYTES = 40
"""An integer in a tuple."""


@dataclass(frozen=True, slots=True)
class AutomaticSettings:
    """limits: of each incident. quiet_s: how long nobody must have been served before a run begins; agents come back
    within a second. call_chars, detectors: as the sessions have them."""

    limits: Limits = LIMITS
    quiet_s: float = 2.0
    call_chars: int = 1 << 20
    detectors: DetectorSettings = DEFAULT


@dataclass(frozen=True, slots=True)
class _Waiting:
    incident: Incident
    capture: Capture
    nbytes: int
    closure: Closure | None = None


class AutomaticReplay:
    """An incident sink. judged: who is told; idle: set while no response is in flight; stopping: the server drains;
    spare: held by whoever uses the engine while it is idle, one at a time.

    A backend that cannot run a response again makes it deaf. Belongs to one event loop.
    """

    def __init__(
        self,
        backend: Backend,
        judged: Callable[[Judgement], None],
        idle: asyncio.Event,
        stopping: Callable[[], bool] = lambda: False,
        settings: AutomaticSettings = AutomaticSettings(),
        spare: asyncio.Lock | None = None,
    ) -> None:
        self._backend, self._tell, self._idle, self._stopping = backend, judged, idle, stopping
        self._settings, self._spare = settings, spare or asyncio.Lock()
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._preempted = 0

    def adopt(self, call_chars: int) -> None:
        """Another policy: sessions hold so much of a call from now on."""
        self._settings = replace(self._settings, call_chars=call_chars)

    def __len__(self) -> int:
        """Incidents that wait to be judged, or for their end."""
        return len(self._waiting)

    def opened(self, incident: Incident, capture: Capture | None = None) -> None:
        """Remembers it if it can be run again: only what was rewound leaves something to compare with."""
        if self._closed or incident.action != "rewind" or not is_replayable(self._backend):
            return
        if capture is None or not capture.is_exact or incident.detector.startswith("stall."):
            return
        waiting = _Waiting(incident, capture, _size(capture))
        if waiting.nbytes > MAX_BYTES:
            log.warning("replay.dropped", incident=incident.id, reason="it is too large")
            return
        self._waiting[incident.id] = waiting
        while len(self._waiting) > MAX_REMEMBERED or sum(w.nbytes for w in self._waiting.values()) > MAX_BYTES:
            dropped, _ = self._waiting.popitem(last=False)
            log.warning("replay.dropped", incident=dropped, reason="too many wait")

    def closed(self, closure: Closure) -> None:
        """Schedules it."""
        waiting = self._waiting.get(closure.id)
        if waiting is None:
            return
        self._waiting[closure.id] = _Waiting(waiting.incident, waiting.capture, waiting.nbytes, closure)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work(), name="replay")

    def judged(self, judgement: Judgement) -> None:
        """Somebody else was faster."""
        self._waiting.pop(judgement.id, None)

    async def settled(self) -> None:
        """Until everything that was closed is judged or given up."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def close(self) -> None:
        """Ends what runs; idempotent."""
        self._closed = True
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        """Until nothing is left that could be judged."""
        while (waiting := next((w for w in self._waiting.values() if w.closure is not None), None)) is not None:
            try:
                self._preempted = 0
                async with self._spare:  # else a canary would count as clients that come first
                    if not await self._quiet():
                        return
                    await self._judge(waiting)
            except BackendError as error:
                log.warning("replay.failed", incident=waiting.incident.id, reason=str(error))
            except Exception:
                log.exception("replay.failed", incident=waiting.incident.id)
            finally:
                self._waiting.pop(waiting.incident.id, None)

    async def _judge(self, waiting: _Waiting) -> None:
        incident, closure = waiting.incident, waiting.closure
        assert closure is not None and isinstance(self._backend, Replayer)
        tripped = tripped_of(incident.detector, incident.grade, incident.position, self._backend, self._settings)
        limits = self._settings.limits
        found = await investigate(self._backend, tripped, waiting.capture, limits, patience=self._patience)
        judgement = as_judgement(incident.id, found, closure.culprit, closure.certainty)
        log.info(
            "incident.judged",
            incident=incident.id,
            culprit=judgement.culprit,
            certainty=judgement.certainty,
            runs=len(judgement.axes),
            milliseconds=round(judgement.milliseconds, 1),
            note=judgement.note,
        )
        if self._waiting.get(incident.id) is waiting:
            self._tell(judgement)

    async def _patience(self) -> bool:
        self._preempted += 1
        return self._preempted <= MAX_PREEMPTED and await self._quiet()

    async def _quiet(self) -> bool:
        """Waits until nobody has been served for a while; False = the server ends."""
        while not self._stopping():
            await self._idle.wait()
            await asyncio.sleep(self._settings.quiet_s)
            if self._idle.is_set() and not self._stopping():
                return True
        return False


def is_replayable(backend: Backend) -> bool:
    """Can it run a response again?"""
    return isinstance(backend, Replayer)


def tripped_of(
    detector: str, grade: str, position: int, backend: Backend, settings: AutomaticSettings = AutomaticSettings()
) -> Tripped:
    """What an incident's record says about the finding. Raises KeyError for a grade that is none."""
    return Tripped(
        detector=detector,
        grade=Grade[grade.upper()],
        position=position,
        exact=backend.capabilities.exactness == "bitwise",
        thinking=backend.info.opens_thinking,
        call_chars=settings.call_chars,
        settings=settings.detectors,
    )


def as_judgement(incident: str, found: Judged, culprit: str, certainty: str) -> Judgement:
    """culprit, certainty: what the closed record says, which stands where the trouble did not come again, and against
    a verdict that is less certain."""
    verdict, note = found.verdict, found.verdict.note
    if verdict.culprit is not None:
        if _CERTAINTIES.index(verdict.certainty) >= _CERTAINTIES.index(certainty):
            culprit, certainty = str(verdict.culprit), verdict.certainty
        elif str(verdict.culprit) != culprit:
            note = f"the record's verdict stands, which is {certainty}; the runs say {verdict.culprit}: {note}"
    rows: tuple[dict[str, Any], ...] = found.rows
    return Judgement(incident, culprit, certainty, "axes", rows, round(found.milliseconds, 1), note)


def _size(capture: Capture) -> int:
    """Bytes, roughly: texts and ids."""
    request = capture.request
    chars = sum(len(m.text) + len(m.thinking) + sum(len(str(c.arguments)) for c in m.calls) for m in request.messages)
    ids = len(capture.prompt_ids) + len(capture.kept_ids) + len(capture.lost_ids)
    return 2 * chars + _TOKEN_BYTES * ids
