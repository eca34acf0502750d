"""All loop detectors of one channel at a time: exact, counting, near-repeated, one character over and over.

Must not: carry anything from one channel into the next, or decide what a finding leads to.
Invariant: a finding is graver than all that was told since the channel was last free of suspicion, and the verdict is
a function of the channel's tokens and their texts.
"""

from __future__ import annotations

from detectors.counter_loop import CounterLoop
from detectors.finding import Finding, Grade
from detectors.loop_settings import LoopSettings
from detectors.near_repeat import NearRepeat
from detectors.period import Loop, Periods, period_finding
from detectors.regions import BASE64, CODE, PROSE, Region, Regions
from detectors.token_text import read

SUSPECT = Grade.SUSPECT


class ChannelLoops:
    """Feeds on (position, token id, text); positions rise by one between resets."""

    def __init__(self, settings: LoopSettings | None = None, channel: str = "text") -> None:
        self._settings = settings = settings or LoopSettings()
        self._exact = Periods()
        self._near = NearRepeat(settings.near)
        self._counter = CounterLoop(settings.counter)
        self._regions = Regions(not channel.startswith("tool:"), settings.base64_chars)
        self._by_region = {PROSE: settings.prose, CODE: settings.code, BASE64: settings.base64}
        self._begin(channel)

    @property
    def grade(self) -> Grade | None:
        """How grave what goes on right now is."""
        return self._grade

    def reset(self, channel: str) -> None:
        """Another channel begins, or the same one anew."""
        self._exact.reset()
        self._near.reset()
        self._counter.reset()
        self._begin(channel)
        self._regions.reset(fences=not self._in_call)

    def _begin(self, channel: str) -> None:
        self.channel = channel
        self._in_call = channel.startswith("tool:")
        self._single, self._single_chars, self._single_began = "", 0, 0
        self._grade: Grade | None = None
        self._told: Grade | None = None
        self._after_code: bool | None = None
        self._counts_after_code: bool | None = None
        self._counts_from_start = False

    def feed(self, position: int, token: int, text: str) -> Finding | None:
        """Takes one token; answers when what goes on has become graver."""
        facts = read(text)
        region = self._regions.feed(text, facts)
        runs = self._exact.push(token)
        if self._in_call and not runs and not facts.single:  # nearly every token of a call
            if facts.chars:
                self._single = ""
            self._grade = self._told = self._after_code = None
            return None
        loop = near = counter = single = None
        if runs:
            prose = self._settings.arguments if self._in_call else self._settings.prose
            loop = self._exact.worst((prose if region is PROSE else self._by_region[region]).reached)
            if loop and loop.grade is not SUSPECT and region is PROSE and self._follows_code(loop.covered):
                loop = self._exact.worst(self._settings.code.reached)
        if region is PROSE and not self._in_call:
            near = self._near.push(position, token, facts.symbol)
            counter = self._counter.push(position, facts, text)
            if counter is None:
                self._counts_after_code = None
            elif self._counts_in_code(position):
                counter = None
            elif self._counts_from_start and counter.covered < self._settings.counter_from_start:
                counter = counter._replace(grade=SUSPECT)
        if facts.single:
            single = self._one_character(position, facts.single, facts.chars, region)
        elif facts.chars:
            self._single = ""
        if loop or near or counter or single:
            return self._tell(position, loop, near, counter, single)
        self._grade = None
        if not runs:
            self._told = self._after_code = None
        return None

    def _follows_code(self, tokens: int) -> bool:
        """Whether the text before the last `tokens` looks like code without a fence; asked once per loop."""
        if self._in_call:
            return False
        if self._after_code is None:
            self._after_code = self._near.is_code_before(tokens)
        return self._after_code

    def _counts_in_code(self, position: int) -> bool:
        """The same for a loop that counts; asked when it is first seen, since what was before it is forgotten."""
        if self._counts_after_code is None:
            before = position - self._counter.first
            self._counts_after_code = self._near.is_code_before(before)
            self._counts_from_start = not self._near.is_known_before(before)
        return self._counts_after_code

    def _tell(
        self, position: int, loop: Loop | None, near: Grade | None, counter: Loop | None, single: Grade | None
    ) -> Finding | None:
        """The gravest; among equals the one that knows most."""
        if loop is not None and near is not None:  # an exact loop has numbers of its own, and they are surer
            near = SUSPECT
        exact, count = loop.grade if loop else 0, counter.grade if counter else 0
        worst = max(exact, count, near or 0, single or 0)
        self._grade = Grade(worst)
        if self._told is not None and worst <= self._told:
            return None
        self._told = self._grade
        if loop is not None and exact == worst:
            return period_finding(loop, self._exact, "loop.period", self.channel, position)
        if counter is not None and count == worst:
            return self._counter.finding(self.channel, position, counter.grade)
        if near == worst:
            return self._near.finding(self.channel, position)
        evidence = {"chars": self._single_chars}
        reason = f"{self._grade.name.lower()}: one character repeats"
        return Finding("loop.single", self._grade, self.channel, position, self._single_began, reason, evidence)

    def _one_character(self, position: int, single: str, chars: int, region: Region) -> Grade | None:
        if single != self._single:
            self._single, self._single_chars, self._single_began = single, 0, position
        self._single_chars = count = self._single_chars + chars
        settings = self._settings
        if count < settings.single_suspect_chars or region is BASE64 or "A" <= single <= "Z":  # encoded zeros are AAAA
            return None
        if count >= settings.single_abort_chars:
            return Grade.ABORT
        return Grade.FALLBACK if count >= settings.single_fallback_chars and not self._in_call else SUSPECT
