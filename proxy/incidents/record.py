"""The records of an incident, and who may be told of them.

Must not: know how they are kept. Invariant: records hold JSON data only; positions are indices into the response's
tokens, times are UTC.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from proxy.incidents.withheld import without_text
from proxy.replays.capture import Capture

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

Action = Literal["start", "rewind", "repair", "end", "none"]
Outcome = Literal["recovered", "ended", "abandoned", "observed"]


@dataclass(frozen=True, slots=True)
class Origin:
    """By which rules a response was made. config_sha256: see `proxy.configuration.config.config_sha256`; "" = unknown.

    override: name of the policy's that was applied, "" = none.
    """

    config_sha256: str = ""
    policy: str = ""
    policy_sha256: str = ""
    override: str = ""


NOWHERE = Origin()


@dataclass(frozen=True, slots=True)
class Incident:
    """Opened when something trips. context: in tokens. tokens_rewound: how many the rewind discards.

    tool: of the call at fault, "" if it is none or names no declared tool. steps: the last steps up to the trip, see
    `proxy.guard.transcript.Step`. texts: what the model and the guard wrote. versions: specguard, python, torch.
    evidence, texts: as found; a store keeps of them what it may. rule: that was followed, "" = none; situation:
    `policies.policy.Situation` that it was decided in, empty before the first token. changed: what else is different
    where it goes on, of a backend with lanes: the lane, the salt of the cache, the grammar.
    """

    id: str
    request_id: str
    session: str
    api: str
    model: str
    fingerprint: str
    detector: str
    grade: str
    reason: str
    channel: str
    position: int
    began: int
    action: Action
    mode_before: str
    mode_after: str
    rewound_to: int | None
    tokens_rewound: int
    context: int
    prompt_tokens: int
    cached_tokens: int
    seed: int
    temperature: float
    prompt_sha256: str
    rebuild: str
    tool: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    audits: Mapping[str, Any] = field(default_factory=dict)
    drafts: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] = ()
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    origin: Origin = NOWHERE
    versions: Mapping[str, str] = field(default_factory=dict)
    rule: str = ""
    situation: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Closure:
    """How it ended. milliseconds: cost of the rewind; rebuilt: tokens computed again; proof: BlameVerdict.

    level: how far the rewind went to get a sound cache, L0 (nothing) to L3 (prefill again); "" = there was none.
    """

    id: str
    outcome: Outcome
    culprit: str
    certainty: str
    finish_reason: str
    milliseconds: float
    rebuilt: int
    completion_tokens: int
    discarded_tokens: int
    proof: Mapping[str, Any] = field(default_factory=dict)
    level: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Who is to blame, by running the response again; it counts more than the closure's word.

    axes: one row for each run (axis, mode, cached, filtered, tokens, first_difference, recurs, cures).
    milliseconds: of all runs. note: why there are fewer runs than axes, in our own words.
    """

    id: str
    culprit: str
    certainty: str
    method: str = "axes"
    axes: tuple[Mapping[str, Any], ...] = ()
    milliseconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """An incident as read back. died: it is open, and the process that opened it is no more.

    capture: data of `proxy.replays.capture.Capture`, or of the prompt alone in records of version 1; None = none
    is kept.
    """

    id: str
    opened_at: str
    opened: dict[str, Any]
    closed_at: str | None = None
    closed: dict[str, Any] | None = None
    judged_at: str | None = None
    judged: dict[str, Any] | None = None
    capture: dict[str, Any] | None = None
    died: bool = False

    @property
    def culprit(self) -> str:
        """`policies.blame.Culprit`, by the runs that were made again if there are some; "" while nobody knows."""
        return str((self.judged or self.closed or {}).get("culprit", ""))

    @property
    def certainty(self) -> str:
        return str((self.judged or self.closed or {}).get("certainty", ""))

    @property
    def state(self) -> str:
        """The outcome, or `open` while the response runs, or `died` if the process did before it ended."""
        if self.closed is not None:
            return str(self.closed.get("outcome"))
        return "died" if self.died else "open"

    def cloud_event(self, source: str = "/specguard") -> dict[str, Any]:
        """All records in one, as CloudEvents 1.0, structured mode. Prompts, texts and tokens stay here."""
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": source,
            "type": "dev.specguard.incident.v1",
            "time": self.opened_at,
            "subject": self.opened.get("request_id") or self.id,
            "datacontenttype": "application/json",
            "data": {
                "state": self.state,
                "opened": without_text("opened", self.opened),
                "closed": self.closed and without_text("closed", self.closed),
                "closed_at": self.closed_at,
                "judged": self.judged and without_text("judged", self.judged),
                "judged_at": self.judged_at,
            },
        }


class IncidentSink(Protocol):
    """Who is told of incidents. No call blocks or raises. `judged` comes at most once, after `closed`."""

    def opened(self, incident: Incident, capture: Capture | None = None) -> None: ...

    def closed(self, closure: Closure) -> None: ...

    def judged(self, judgement: Judgement) -> None: ...


def new_incident_id() -> str:
    """`inc_` and 26 characters that sort by time, like a ULID."""
    number = (time.time_ns() // 1_000 << 72) | secrets.randbits(72)
    return "inc_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
