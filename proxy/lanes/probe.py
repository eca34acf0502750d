"""Probes a lane: what it is and what it can tell and do, by asking it a dozen small things.

Must not: guess, take longer than `SECONDS`, or believe a server that ignores what it does not know.
Invariant: every capability that was not found has a reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.lanes import trials
from proxy.lanes.asking import Asker, Target, Unanswered
from proxy.lanes.capabilities import LaneCapabilities, missing
from proxy.lanes.identity import Identity, LaneSilent, identify
from proxy.lanes.known_bad import matches

SECONDS = 180.0
"""For all of a lane's probes; each request has its own, shorter limit."""
NO_USAGE = "the stream ends without it"


@dataclass(frozen=True, slots=True)
class Probed:
    """reasons: why a capability is missing or not certain, by its name. model: that requests will name. away: why it
    could not be asked, "" = it was."""

    target: Target
    model: str
    capabilities: LaneCapabilities
    reasons: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    away: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON data: for `/ready`, incidents and `--json`. The key is not in it."""
        return {
            "name": self.target.name,
            "url": self.target.root,
            "model": self.model,
            "away": self.away or None,
            "capabilities": self.capabilities.plain(),
            "reasons": dict(self.reasons),
            "missing": missing(self.capabilities),
            "known_bad": [row.id for row in matches(self.capabilities)],
        }


async def probe(target: Target, seconds: float = SECONDS) -> Probed:
    """Raises LaneSilent for a lane that is not there, or answers nothing at all."""
    started = time.monotonic()
    async with Asker(target) as asker:
        try:
            async with asyncio.timeout(seconds):
                identity = await identify(asker)
        except TimeoutError:
            raise LaneSilent(
                f"lane {target.name!r} ({target.root}): no answer within {seconds:g} s; start the server, or correct "
                "the lane's url"
            ) from None
        found = LaneCapabilities(
            identity.kind,
            identity.version,
            speculation=identity.speculation,
            kv=identity.kv,
            prefix_cache=identity.prefix_cache,
            context_window=identity.context_window,
        )
        trial = _Trial(asker, identity, found, dict(identity.why))
        try:
            async with asyncio.timeout(max(0.0, seconds - (time.monotonic() - started))):
                await trial.run()
        except TimeoutError:
            for name in missing(trial.found):
                trial.why.setdefault(name, f"the probes took longer than {seconds:g} s")
    return Probed(target, identity.model, trial.found, trial.why, time.monotonic() - started)


class _Trial:
    """What was found so far, so that a time limit does not take it away."""

    def __init__(self, asker: Asker, identity: Identity, found: LaneCapabilities, why: dict[str, str]) -> None:
        self.asker, self.identity, self.found, self.why = asker, identity, found, why

    async def run(self) -> None:
        asker, identity = self.asker, self.identity
        try:
            heard, after, refused = await trials.try_stream(asker, identity)
        except Unanswered as error:
            begins = f"lane {asker.target.name!r} ({asker.target.root}): "
            raise LaneSilent(
                f"{begins}{error}{': ' + error.told if error.told else ''}; a lane must answer streaming "
                "/v1/chat/completions for the model that it is configured with"
            ) from None
        where, accepted = trials.judge_drafts(heard, identity.metrics, after)
        logprobs, speculative = trials.judge_logprobs(heard, refused, accepted)
        self._note("token_ids", trials.judge_ids(heard, refused))
        self._note("prompt_ids", trials.Verdict(bool(heard.prompt_ids), "" if heard.prompt_ids else "none came"))
        self._note("logprobs", logprobs)
        self._note("logprobs_under_speculation", speculative)
        usage = heard.completion_tokens is not None
        self._note("usage", trials.Verdict(usage, "" if usage else refused.get("stream_options", NO_USAGE)))
        drafts = "" if where != "none" else "neither the stream nor /metrics tells of drafts"
        self._note("draft_statistics", trials.Verdict(where, drafts))
        if where == "timings" and self.found.speculation is None:
            self.found = replace(self.found, speculation="on")  # there are drafts, whoever makes them
            self.why["speculation"] = "drafts were seen; the method is not told"
        self._note("prefill", await trials.try_prefill(asker, identity))
        self._note("error_frame", await trials.try_error(asker, identity))
        salt, hits = await trials.try_cache(asker, identity)
        self._note("cache_salt", salt)
        self._note("cache_hits", hits)
        self._note("prompt_logprobs", await trials.try_scores(asker, identity, heard))

    def _note(self, name: str, verdict: trials.Verdict) -> None:
        self.found = replace(self.found, **{name: verdict.value})
        if verdict.why:
            self.why[name] = verdict.why
