"""What was measured, in the form of every benchmark: tables, bars, and all figures as data.

Must not: measure, or merge workloads into one score.
Invariant: the tables show what `data` holds; a bar is there only if both of its sides were measured.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from policies.modes import DecodeMode
from proxy.bench.pack.recommend import PLAIN, recommend
from proxy.bench.pack.run import Measured, Plan
from proxy.bench.report import Bar, Cell, Report, Table
from proxy.versions import versions

FULL_SPEED, PACKED = "mtp+ngram/full", "mtp+ngram/k4v4"
TIME, POINTS = 0.6, 2.0
TOGETHER = "modes take turns at each step"
ONE_BY_ONE = "one engine at a time, the other way round in every other round"
CLIFF = 0.5
"""Of the shortest context's figure; what falls below it has fallen off."""
Rate = Mapping[str, Any] | None


def report(
    found: Measured,
    plan: Plan,
    source: str,
    peers: Sequence[Table] = (),
    without: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """peers: further tables. without: what else was not measured, and why."""
    modes = {mode: {key: each.plain() for key, each in own.items()} for mode, own in found.modes.items()}
    sweep = {
        mode: [{"tokens": point.tokens, "figures": point.figures.plain()} for point in points]
        for mode, points in found.sweep.items()
    }
    partial = found.stopped and not found.rounds
    kv = {mode: {"tokens": tokens, "bytes": size} for mode, (tokens, size) in found.kv.items()}
    vram = {mode: asdict(most) for mode, most in found.vram.items()}
    advice = recommend(modes, found.about.get("exactness", ""), partial)
    cliffs = {mode: cliff(points) for mode, points in sweep.items() if points}
    data = {
        "modes": modes,
        "sweep": sweep,
        "cliff": cliffs,
        "kv": kv,
        "vram": vram,
        "titles": dict(found.titles),
        "recommendation": advice.plain(),
        "stopped": partial,
        "rounds": found.rounds,
    }
    bars, unmeasured = _bars(modes, "target" in found.about)
    return Report(
        bench="pack",
        settings=settings(found, plan, source),
        tables=(
            *_workloads(modes, found.titles),
            *_sweep(sweep, cliffs),
            *_drafts(modes),
            *_memory(kv, vram),
            *peers,
            _advice(data),
        ),
        bars=tuple(bars),
        unmeasured=unmeasured | dict(without) | {f"mode {mode}": why for mode, why in found.absent.items()},
        data=data,
    )


def settings(found: Measured, plan: Plan, source: str) -> dict[str, Any]:
    """The header: what was run on what."""
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "source": source,
        "seed": plan.seed,
        "rounds": f"{found.rounds} of {plan.rounds}{', then stopped' if found.stopped else ''}",
        "order": TOGETHER if plan.together else ONE_BY_ONE,
        "window": found.window,
        "long-context": found.reach,
        **versions(),
        "machine": platform.machine(),
        "cpu": cpu(),
        **found.about,
    }


def cpu() -> str:
    """The processor's name, where the system tells one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    named = next((line for line in lines if line.startswith("model name")), "")
    return named.partition(":")[2].strip() or platform.processor() or "unknown"


def cliff(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first length at which repairs, or the speed of decoding, are below half of what they are at the shortest, or
    nothing at all."""
    fallen: dict[str, Any] = {}
    for name in ("passed", "decode"):
        rated = [(p["tokens"], p["figures"][name]) for p in points if p["figures"][name] is not None]
        least = CLIFF * rated[0][1]["value"] if rated else 0.0
        fallen[name] = next((tokens for tokens, rate in rated if rate["value"] < least or not rate["value"]), None)
    return fallen


def interval(rate: Rate, scale: float = 1.0) -> str | None:
    """`93 (68-99)`; `93 (once)` of what tells nothing of its chance; None of what was not measured."""
    if rate is None:
        return None
    value, low, high = (rate[name] * scale for name in ("value", "low", "high"))
    if low == high and rate["of"] == 1:
        return f"{value:.0f} (once)"
    return f"{value:.0f} ({low:.0f}-{high:.0f})"


def _workloads(modes: Mapping[str, Any], titles: Mapping[str, str]) -> list[Table]:
    columns = (
        "mode",
        "loop s",
        "processor s",
        "prefill t/s",
        "decode t/s",
        "acceptance %",
        "calls valid %",
        "pass %",
        "first edit s",
        "loops",
        "guard",
        "fallbacks",
        "failed",
        "unknown names",
        "lines off",
        "same text",
    )
    tables = []
    for key, title in titles.items():
        rows: list[tuple[Cell, ...]] = []
        for mode, own in modes.items():
            if key not in own:
                continue
            one, plain = own[key], modes.get(PLAIN, {}).get(key)
            same = None if plain is None or mode == PLAIN else "yes" if one["text"] == plain["text"] else "no"
            percent = [interval(one[name], 100) for name in ("acceptance", "valid", "passed")]
            rows.append(
                (
                    mode,
                    one["seconds"],
                    one["processor_s"],
                    interval(one["prefill"]),
                    interval(one["decode"]),
                    *percent,
                    one["first_edit_s"],
                    one["loops"],
                    one["trips"],
                    one["fallbacks"],
                    one["failures"],
                    one["unknown_names"],
                    one["lines_off"],
                    same,
                )
            )
        of = max((own[key]["trials"] for own in modes.values() if key in own), default=0)
        tables.append(Table(f"{title} ({of})", columns, tuple(rows)))
    return tables


def _sweep(sweep: Mapping[str, Any], cliffs: Mapping[str, Any]) -> list[Table]:
    rows = [
        (
            mode,
            point["tokens"],
            *(interval(point["figures"][name]) for name in ("prefill", "decode")),
            *(interval(point["figures"][name], 100) for name in ("acceptance", "passed")),
        )
        for mode, points in sweep.items()
        for point in points
    ]
    if not rows:
        return []
    told = [f"{mode}: repairs from {_at(c['passed'])}, speed from {_at(c['decode'])}" for mode, c in cliffs.items()]
    columns = ("mode", "context", "prefill t/s", "decode t/s", "acceptance %", "pass %")
    note = "Context cliff (below half of the shortest context): " + "; ".join(told)
    return [Table("By length of context", columns, tuple(rows), note)]


def _at(tokens: int | None) -> str:
    return "nowhere here" if tokens is None else f"{tokens} tokens"


def _drafts(modes: Mapping[str, Any]) -> list[Table]:
    rows: list[tuple[Cell, ...]] = []
    for mode, own in modes.items():
        longest = max((len(one["by_position"]) for one in own.values()), default=0)
        placed = [
            [one["by_position"][i] for one in own.values() if len(one["by_position"]) > i] for i in range(longest)
        ]
        if placed:
            sums = [(sum(n for n, _ in row), sum(kept for _, kept in row)) for row in placed]
            shares = [f"{100 * kept / drafted:.0f}" if drafted else "-" for drafted, kept in sums]
            rows.append((mode, " ".join(shares)))
    return [Table("Acceptance by position of a draft, %", ("mode", "1st, 2nd, ..."), tuple(rows))] if rows else []


def _memory(kv: Mapping[str, Any], vram: Mapping[str, Any]) -> list[Table]:
    """With columns of a CUDA device where the engine ran on one."""
    rows: list[tuple[Cell, ...]] = []
    for mode in dict.fromkeys([*kv, *vram]):
        held, most = kv.get(mode), vram.get(mode)
        row: tuple[Cell, ...] = (None,) * 3 if held is None else (held["tokens"], held["bytes"], _per_token(held))
        if vram:
            row += (None, None) if most is None else (mib(most["allocated"]), mib(most["reserved"]))
        rows.append((mode, *row))
    if not rows:
        return []
    columns: tuple[str, ...] = ("mode", "tokens", "bytes", "per token")
    if not vram:
        return [Table("Bytes that a prompt's caches hold", columns, tuple(rows))]
    columns += ("VRAM peak MiB, allocated", "reserved")
    note = "VRAM: of the whole mode, weights and all, with no other engine on the device."
    return [Table("Bytes that a prompt's caches hold, and what the device held", columns, tuple(rows), note)]


def _per_token(held: Mapping[str, Any]) -> float:
    return float(held["bytes"] / held["tokens"])


def mib(size: int) -> float:
    return size / (1 << 20)


def _advice(data: Mapping[str, Any]) -> Table:
    rows = tuple((v["mode"], _time(v), "; ".join(v["against"]) or "sound") for v in data["recommendation"]["verdicts"])
    note = data["recommendation"]["words"]
    return Table("Recommendation", ("mode", "of plain's time", "what speaks against it"), rows, note)


def _time(verdict: Mapping[str, Any]) -> Cell:
    time, low, high = verdict["time"], verdict["low"], verdict["high"]
    return time if time is None or low is None else f"{time:.2f} ({low:.2f}-{high:.2f})"


def _bars(modes: Mapping[str, Any], elsewhere: bool = False) -> tuple[list[Bar], dict[str, str]]:
    """elsewhere: the engine does not run in this process, whose processor time says nothing of it then."""
    bars: list[Bar] = []
    unmeasured: dict[str, str] = {}
    plain = modes.get(PLAIN, {})

    def whole(mode: str, beside: str = PLAIN) -> bool:
        """Both have met the same workloads, so that neither was stopped before its end."""
        return bool(modes.get(mode)) and modes[mode].keys() == modes.get(beside, {}).keys()

    for name, part in (("whole-loop time", "seconds"), ("whole-loop processor time", "processor_s")):
        label = f"{name} of {FULL_SPEED}, of plain/full's"
        theirs = sum(one[part] for one in plain.values())
        if not whole(FULL_SPEED):
            unmeasured[label] = "needs both modes, each with all workloads"
        elif any(one["failures"] for mode in (FULL_SPEED, PLAIN) for one in modes[mode].values()):
            unmeasured[label] = "answers failed, and what fails may fail fast"
        elif part == "processor_s" and (elsewhere or not theirs):
            unmeasured[label] = "the engine runs in another process"
        else:
            ours = sum(one[part] for one in modes[FULL_SPEED].values())
            bars.append(Bar.at_most(label, TIME, ours / theirs, "x"))
    exact = [m for m in modes if m not in (PLAIN, "served") and DecodeMode.parse(m).codec == "full" and whole(m)]
    if exact:
        pairs = [(modes[mode][key], plain[key]) for mode in exact for key in plain]
        for label, part in (("tool validity", "valid"), ("pass rate", "passed"), ("text", "text")):
            unlike = sum(_value(mine[part]) != _value(theirs[part]) for mine, theirs in pairs)
            bars.append(Bar.at_most(f"{label} unlike plain's, full cache", 0, unlike, "workloads"))
    else:
        unmeasured["tool validity and pass rate equal to plain's"] = "needs plain and another mode with a full cache"
    full = next((_pass_points(modes[mode]) for mode in (FULL_SPEED, PLAIN) if whole(PACKED, mode)), None)
    packed = _pass_points(modes.get(PACKED, {}))
    if full is None or packed is None:
        unmeasured[f"pass rate that {PACKED} loses to full"] = "needs both modes, each with all workloads"
    else:
        bars.append(Bar.at_most(f"pass rate that {PACKED} loses to full", POINTS, max(0.0, full - packed), "points"))
    return bars, unmeasured


def _value(part: Any) -> Any:
    return part["value"] if isinstance(part, Mapping) else part


def _pass_points(own: Mapping[str, Any]) -> float | None:
    """Per cent of all that are judged by tests; None where nothing is."""
    rates = [one["passed"] for key, one in own.items() if key in ("far", "quality") and one["passed"] is not None]
    of = sum(rate["of"] for rate in rates)
    return 100 * sum(rate["value"] * rate["of"] for rate in rates) / of if of else None
