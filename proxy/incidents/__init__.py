"""Incidents: what tripped, where, what was done, how it ended, and who is to blame; kept in SQLite.

Must not: keep a prompt, arguments or a response's tokens unless asked to, or keep a secret at all.
Invariant: an incident is at most three records, `opened`, `closed` and `judged`, each written once and never changed.
"""

from __future__ import annotations

from proxy.incidents.record import (
    NOWHERE,
    Action,
    Closure,
    Incident,
    IncidentSink,
    Judgement,
    Origin,
    Outcome,
    Record,
    new_incident_id,
)
from proxy.incidents.retention import Limits
from proxy.incidents.store import IncidentStore, StoreProblem

__all__ = [
    "NOWHERE",
    "Action",
    "Closure",
    "Incident",
    "IncidentSink",
    "IncidentStore",
    "Judgement",
    "Limits",
    "Origin",
    "Outcome",
    "Record",
    "StoreProblem",
    "new_incident_id",
]
