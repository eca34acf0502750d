"""Rules: which findings lead to which remedies, as data.

Must not: decide (that is `policies.policy`), or read a file (that is `policies.rule_file`).
Invariant: a rule that `covers` another matches every finding that the other one matches.

Globs are those of `fnmatch`: `*`, `?` and `[seq]`, case counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from detectors.finding import Finding, Grade
from policies.modes import CODECS, DRAFTERS, DecodeMode

Remedy = Literal["hold", "rewind", "recompute", "repair", "end", "none"]
"""hold: keep text back while the suspicion lasts. rewind: go back and on in a safer mode (before the first token: begin
in it). recompute: go back and on in the same mode, from caches that are computed anew. repair: mend the refused call.
end: end the response honestly. none: record it and go on."""

Accused = Literal["speculation", "kv", "unknown"]
ChannelKind = Literal["thinking", "text", "tool", "engine", "session"]

REMEDIES: tuple[Remedy, ...] = get_args(Remedy)
CHANNEL_KINDS: tuple[ChannelKind, ...] = get_args(ChannelKind)
ALWAYS_POSSIBLE: tuple[Remedy, ...] = ("hold", "end", "none")

DETECTORS = (
    "tool.json", "tool.schema", "tool.markup", "tool.unknown", "tool.limit", "tool.truncated", "tool.leak", "tool.held",
    "loop.period", "loop.near", "loop.counter", "loop.single", "loop.bytes", "loop.elements", "loop.calls",
    "loop.history",
    "struct.run", "struct.misplaced", "struct.think",
    "text.charset",
    "drift.audit", "drift.prefix", "drift.nonfinite", "drift.shadow", "drift.kv", "drift.sharpened", "drift.accepted",
    "drift.collapse", "drift.tool_validity",
    "stall.step", "stall.engine",
    "lane.failed", "lane.swallowed", "lane.empty", "lane.finish", "lane.repetition",
    "budget.session",
)  # fmt: skip
"""Everybody who speaks, so that a rule for nobody can be pointed out."""

MODES = tuple(str(DecodeMode(drafter, codec)) for drafter in DRAFTERS for codec in CODECS)
"""Every decode mode as rules see it."""


@dataclass(frozen=True, slots=True)
class When:
    """Which findings a rule is for; an empty field is for all. All fields must hold.

    detectors, tools, modes: globs of detector names, of the name of the call concerned ("" where there is none or it is
    not written yet) and of the present decode mode (`mtp+ngram/k4v4`, `plain`).
    at_least: least grade; exactly: the only one, whatever the least one is.
    """

    detectors: tuple[str, ...] = ()
    at_least: Grade = Grade.SUSPECT
    exactly: Grade | None = None
    channels: tuple[ChannelKind, ...] = ()
    tools: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()

    @property
    def grades(self) -> frozenset[Grade]:
        least, exactly = self.at_least, self.exactly
        return frozenset(grade for grade in Grade if (grade >= least if exactly is None else grade == exactly))

    def matches(self, finding: Finding, mode: DecodeMode, tool: str) -> bool:
        """Is the rule for this finding, in this mode, about a call of `tool`?"""
        grade = finding.grade
        return (
            (grade >= self.at_least if self.exactly is None else grade == self.exactly)
            and any_matches(self.detectors, finding.detector)
            and (not self.channels or finding.channel.partition(":")[0] in self.channels)
            and any_matches(self.tools, tool)
            and any_matches(self.modes, str(mode))
        )

    def covers(self, other: When) -> bool:
        """Does it match whatever the other one matches? False where that is not certain."""
        channels, others = self.channels or CHANNEL_KINDS, other.channels or CHANNEL_KINDS
        return (
            other.grades <= self.grades
            and set(others) <= set(channels)
            and _all_covered(self.detectors, other.detectors)
            and _all_covered(self.tools, other.tools)
            and _all_covered(self.modes, other.modes)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """do: the first remedy that is possible in the situation is taken; with none of them the finding is recorded.

    accuse: whose fault it is taken for, which picks the mode that a rewind goes on in (`policies.ladder`).
    """

    name: str
    when: When
    do: tuple[Remedy, ...]
    accuse: Accused = "unknown"


def first_match(rules: Sequence[Rule], finding: Finding, mode: DecodeMode, tool: str) -> Rule | None:
    """The rule that speaks for a finding; the order of the rules is their order of precedence."""
    return next((rule for rule in rules if rule.when.matches(finding, mode, tool)), None)


def never_matching(rules: Sequence[Rule]) -> list[tuple[Rule, Rule]]:
    """Rules that an earlier one covers, each with that one."""
    found = []
    for index, rule in enumerate(rules):
        before = next((earlier for earlier in rules[:index] if earlier.when.covers(rule.when)), None)
        if before is not None:
            found.append((rule, before))
    return found


def unknown_detectors(rules: Sequence[Rule]) -> list[tuple[Rule, str]]:
    """Detector globs that no detector answers to."""
    return [
        (rule, glob)
        for rule in rules
        for glob in rule.when.detectors
        if not any(fnmatchcase(name, glob) for name in DETECTORS)
    ]


def unknown_modes(rules: Sequence[Rule]) -> list[tuple[Rule, str]]:
    """Mode globs that no decode mode answers to: `mtp` alone is none, it is `mtp/full` or `mtp/*`."""
    return [(rule, glob) for rule in rules for glob in rule.when.modes if not any(fnmatchcase(m, glob) for m in MODES)]


def any_matches(globs: tuple[str, ...], name: str) -> bool:
    """Does one of the globs match? No globs match everything."""
    return not globs or any(fnmatchcase(name, glob) for glob in globs)


def _all_covered(globs: tuple[str, ...], others: tuple[str, ...]) -> bool:
    if not globs:
        return True
    return bool(others) and all(any(_covers(glob, other) for glob in globs) for other in others)


def _covers(glob: str, other: str) -> bool:
    """A glob of `*` alone that matches another one's text matches all that the other matches: where that has a `*` or
    `?`, ours must have a `*`. Other globs cover only themselves and plain names."""
    if glob == other:
        return True
    if any(c in other for c in "[]") or (any(c in glob for c in "?[") and any(c in other for c in "*?")):
        return False
    return fnmatchcase(other, glob)
