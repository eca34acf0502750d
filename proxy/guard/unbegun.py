"""The incident of a response that nobody could be asked for.

Must not: change what the client is told. Invariant: an error with a finding leaves one incident, closed; any other
leaves none.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.modes import DecodeMode
from policies.policy import Policy, Situation, decide
from proxy.backends.base import Backend
from proxy.backends.errors import BackendError
from proxy.conversation import ChatRequest
from proxy.guard.transcript import Transcript
from proxy.guard.trips import Trips
from proxy.incidents import IncidentSink, Origin


@dataclass(frozen=True, slots=True)
class Unbegun:
    """In a generation's place: nothing was drawn or read."""

    prompt_ids: tuple[int, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seed: int = 0


def tell_unbegun(
    error: BackendError,
    request: ChatRequest,
    backend: Backend,
    policy: Policy,
    mode: DecodeMode,
    sink: IncidentSink,
    origin: Origin,
) -> None:
    """Records what the error tells of, if anything. mode: that the response was to begin in."""
    if error.outage is None:
        return
    situation = Situation(mode, 0, 0, can_rewind=False)
    decision = decide(error.outage, situation, policy)
    trips, nothing = Trips(request, backend, Unbegun(seed=request.sampling.seed or 0), sink, origin), Transcript()
    trips.open(error.outage, decision, mode, nothing, situation=situation)
    trips.close("ended", "", nothing)
