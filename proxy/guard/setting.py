"""What one guarded response is made with.

Must not: hold anything that changes while it is made. Invariant: it is complete before the first token is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detectors.history_scrub import LoopDigest
from detectors.stall import StallSettings
from detectors.tool_schema import ToolSchemas
from policies.modes import DecodeMode
from policies.policy import Policy
from policies.trust import Limit
from proxy.backends.base import Backend
from proxy.conversation import ChatRequest
from proxy.guard.session_budget import SessionBudget
from proxy.incidents import IncidentSink, Origin


@dataclass(frozen=True, slots=True)
class Setting:
    """What a response is made with. mode: that it begins in; clock: seconds that the engine's work is measured by.

    limit: of the context up to which `mode` is trusted. remember: told of a loop that was cut after some of it was
    sent. whole: the client gets nothing before the end.
    """

    request: ChatRequest
    backend: Backend
    policy: Policy
    incidents: IncidentSink
    origin: Origin
    schemas: ToolSchemas
    mode: DecodeMode
    budget: SessionBudget | None
    clock: Callable[[], float]
    stall: StallSettings
    limit: Limit | None = None
    remember: Callable[[LoopDigest], None] | None = None
    whole: bool = False
