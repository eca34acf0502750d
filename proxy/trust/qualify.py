"""Finds out up to which context each decode mode can be trusted: canaries and repairs beside plain decoding's.

Must not: trust what was not measured, or a longer context than one that was refused.
Invariant: every bucket that is not trusted says why; plain decoding in full precision is what all is held against.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from policies.breaker import Key, bucket_of
from policies.modes import DecodeMode
from policies.qualification import Bucket, Qualification, QualifiedMode
from proxy.bench.pack.figures import Figures
from proxy.bench.pack.lanes import Lane, Opening, opened, require_some
from proxy.bench.pack.recommend import against
from proxy.bench.pack.run import ROOM, Fit, Progress, fitted, measure, point
from proxy.bench.pack.tasks import Source
from proxy.bench.pack.workloads import QUICK, workloads
from proxy.configuration.config import ConfigProblem
from proxy.server.service import Service
from proxy.trust.canaries import Canaries, CanarySettings, Outcome
from proxy.versions import versions

PLAIN = "plain"
FIRST = 1024
"""Upper edge of the first bucket; each further one is twice as long."""
CLIFF = 0.5
"""Of the repairs that plain decoding manages without context, so many it must manage at a length."""
CHANCE = 1
"""So many tasks of a bucket a compressed cache may lose to plain decoding: it says other things, and there are few."""
SHORT = ("patch", "json", "loop")
"""Workloads of the pack that the first bucket is held to, beside its repairs."""
SAID_NOTHING = "answers nothing rightly"
WHY_CHARS = 1000


@dataclass(slots=True)
class Judged:
    """One mode, bucket by bucket."""

    mode: str
    buckets: list[Bucket] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        return bool(self.buckets) and not self.buckets[-1].trusted


@dataclass(slots=True)
class Seen:
    """What plain decoding has shown. base: share of repairs without context; here: by bucket; short: workload ->
    figures."""

    base: float = 0.0
    here: dict[int, Figures] = field(default_factory=dict)
    short: dict[str, Figures] = field(default_factory=dict)


@dataclass(slots=True)
class Findings:
    """All that was found out so far. absent: modes that this model lacks, and why; they are left out. stopped: by
    Ctrl-C; then the mode that ran is left out."""

    model: str = ""
    fingerprint: str = ""
    tool_format: str = ""
    exactness: str = ""
    modes: list[Judged] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    stopped: bool = False

    def file(self) -> Qualification:
        """As it is written."""
        rows = []
        for judged in self.modes:
            mode = DecodeMode.parse(judged.mode)
            rows.append(QualifiedMode(drafter=mode.drafter, codec=mode.codec, buckets=judged.buckets))
        return Qualification(
            format="specguard.qualification",
            version=1,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            model=self.model,
            fingerprint=self.fingerprint,
            tool_format=self.tool_format,
            versions=dict(versions()),
            modes=rows,
        )


def edges(window: int) -> list[int]:
    """Upper edges of the buckets of a model that reads so many tokens."""
    found = [FIRST]
    while found[-1] < window:
        found.append(found[-1] * 2)
    return [*found[:-1], window]


async def qualify(
    opening: Opening, source: Source, modes: Sequence[str], each: int, progress: Progress, found: Findings
) -> Findings:
    """modes: without plain. each: repairs in a bucket. found: filled while it runs. Raises ConfigProblem if there is
    none of these modes."""
    try:
        seen = Seen()
        async with opening(PLAIN) as lane:
            _describe(lane, found)
            fit = await fitted(lane, source)
            await _plain(lane, source, fit, each, progress, seen)
        for mode in modes:
            async with opened(opening, [mode], found.absent) as lanes:
                judged = [await _mode(lane, source, fit, each, progress, seen, found.exactness) for lane in lanes]
            found.modes += judged
        require_some(found.modes, found.absent)
    except asyncio.CancelledError:
        found.stopped = True
    return found


def _describe(lane: Lane, found: Findings) -> None:
    service = _service(lane)
    info = service.backend.info
    found.model, found.fingerprint, found.tool_format = info.id, info.fingerprint, info.tool_format
    found.exactness = str(service.backend.capabilities.exactness)


def _service(lane: Lane) -> Service:
    if lane.service is None:
        raise ConfigProblem(
            "qualify: only a server in this process can be qualified, one elsewhere names no fingerprint"
        )
    return lane.service


async def _plain(lane: Lane, source: Source, fit: Fit, each: int, progress: Progress, seen: Seen) -> None:
    """Until plain decoding itself does not manage any more."""
    seen.base = _share((await point(lane, source, fit, 0, each, progress)).figures)
    for workload in workloads(source, QUICK):
        if workload.key in SHORT:
            seen.short[workload.key] = await measure(lane, source, workload, progress)
    for edge in edges(lane.window):
        seen.here[edge] = figures = await _repairs(lane, source, fit, edge, each, progress)
        if _fallen(figures, seen.base):
            return


async def _mode(
    lane: Lane, source: Source, fit: Fit, each: int, progress: Progress, seen: Seen, exactness: str
) -> Judged:
    judged = Judged(lane.mode)
    for number, edge in enumerate(edges(lane.window)):
        if judged.refused:
            why = f"not measured: it is refused at {judged.buckets[-1].up_to_tokens} tokens"
            why = judged.buckets[-1].why if judged.buckets[-1].why.startswith("not measured") else why
        else:
            why = await _why(lane, source, fit, edge, each, progress, seen, exactness, first=not number)
        judged.buckets.append(Bucket(up_to_tokens=edge, trusted=not why, why=why[:WHY_CHARS]))
    return judged


async def _why(
    lane: Lane,
    source: Source,
    fit: Fit,
    edge: int,
    each: int,
    progress: Progress,
    seen: Seen,
    exactness: str,
    first: bool,
) -> str:
    """Why a mode is not trusted up to `edge` tokens; empty if it is."""
    plain = seen.here[edge]
    if _fallen(plain, seen.base):
        return f"beyond the context cliff: of the repairs behind {edge} tokens plain decoding passes {_told(plain)}"
    progress.begins(f"{lane.mode}: canaries at {edge} tokens", 1)
    outcome, told = await _canaries(lane, edge)
    if outcome == "failed":
        return told
    progress.step()
    if first:
        for workload in workloads(source, QUICK):
            if workload.key in SHORT:
                own = await measure(lane, source, workload, progress)
                if reasons := against(lane.mode, own.plain(), seen.short[workload.key].plain(), exactness):
                    return f"{workload.title}: {'; '.join(reasons)}"
    own = await _repairs(lane, source, fit, edge, each, progress)
    if reasons := against(lane.mode, own.plain(), plain.plain(), exactness, CHANCE):
        return f"repairs behind {edge} tokens: {'; '.join(reasons)}"
    return told


async def _canaries(lane: Lane, edge: int) -> tuple[Outcome, str]:
    """How the canaries went, and what of that speaks against a mode, empty if nothing does.

    Where plain decoding cannot answer them, they say nothing of a compressed cache; then repairs must.
    """
    service = _service(lane)
    info = service.backend.info
    settings = CanarySettings(needs_hit=service.config.model.kept_prefixes > 0)
    if service.keeper is None:
        return "gave_up", "canaries: the server keeps no breakers"
    canaries = Canaries(service.keeper, service.backend, service.idle, settings)
    context = min(edge, info.context_window)
    key = Key(info.fingerprint, lane.mode, bucket_of(context), info.tool_format)
    outcome, why = await canaries.judge(key, context)
    speaks = outcome == "failed" or (outcome == "gave_up" and SAID_NOTHING not in why)
    return outcome, f"canaries at {context} tokens: {why}" if speaks else ""


async def _repairs(lane: Lane, source: Source, fit: Fit, edge: int, each: int, progress: Progress) -> Figures:
    tokens = min(edge, max(1, lane.window - ROOM))
    return (await point(lane, source, fit, tokens, each, progress)).figures


def _fallen(figures: Figures, base: float) -> bool:
    share = _share(figures)
    return share == 0 or share < CLIFF * base


def _share(figures: Figures) -> float:
    return 0.0 if figures.passed is None else figures.passed.value


def _told(figures: Figures) -> str:
    rate = figures.passed
    return "none" if rate is None else f"{round(rate.value * rate.of)} of {rate.of}"
