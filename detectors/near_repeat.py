"""Near-repeats: most of what a model says, it has said several times before, not long ago.

Must not: police tool arguments or code (4 to 12 % of legitimate files look like this), or count what was said once or
twice before: quoting and rewriting a text is no loop.
Invariant: bounded memory; the state is a function of the tokens fed and of which of them are symbols.

A 4-gram counts as repeated by one of two rules, over two windows. Short units: it is the fourth time within 512 tokens.
Long ones: the fourth time within `horizon`, or the third if the last was `far` tokens ago and one gap is at most twice
that (units of 300 to 500 tokens have no room for more; a file written three times is longer). Counters, mutations, a
few variants in turn break four grams per change and leave the rest repeated. Neither counts where the text looks like
code without a fence, by its share of symbols: in the last short window, and in the channel so far.

Long units that are filled in are a collection (licences, form letters), no loop: each copy brings something new where
the copy before did. A loop changes words anywhere, adds nothing, or counts, which is `loop.counter`'s matter.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from detectors.finding import Finding, Grade

_GRAM = 4
_SHIFT = 15  # 4 grams of 15 bits; the mask forgets the fifth
_MASK = (1 << 60) - 1
_MIX = 0x9E37
_GAP_BITS = 12
_GAP = (1 << _GAP_BITS) - 1
_SHORT, _LONG, _SYMBOL = 1, 2, 4  # what a mark holds below its gap
_MARK_BITS = 3
_FLAGS = _SHORT | _LONG
_LOOK = 64
_RECENT = 1 << 13  # tokens of the channel that its share of symbols is taken over, at least half of them


@dataclass(frozen=True, slots=True)
class NearThresholds:
    """Lengths and distances in tokens; shares of a window, 0 to 1."""

    horizon: int = 2048
    """What was said longer ago is forgotten. A power of two."""

    reach: int = 512
    short_window: int = 256
    short_suspect: float = 0.7
    short_fallback: float = 0.84
    """Short units: the share of the window's 4-grams that were said four times within `reach`."""

    far: int = 280
    long_window: int = 512
    long_suspect: float = 0.65
    long_fallback: float = 0.75
    """Long units: the share that was said four times within `horizon`, or three times and `far` apart."""

    filled: float = 0.4
    slots: int = 5
    collection: int = 4096
    """A long unit is filled in, and no loop, if of the window's new tokens such a share, and so many, stand where the
    copy before was new too; one changed word makes four. In made loops with 5 % of their words changed the share is
    .36 at most. For so many tokens on end: the longest in the corpus is of about 1,500."""

    symbols: float = 0.16
    symbols_so_far: float = 0.12
    """A larger share of tokens with digits and signs is code, in the short window and in the channel so far."""

    known: int = 64
    """A loop that begins sooner has nothing before it that could be code."""

    abort_after: int = 1536
    """Tokens for which a share stays at `fallback` or above."""

    def __post_init__(self) -> None:
        if (
            min(self.short_window, self.long_window) < 16
            or min(self.reach, self.far, self.abort_after, self.slots, self.collection) < 1
        ):
            raise ValueError(
                "short_window, long_window: 16 tokens or more; reach, far, abort_after, slots, collection: 1 or more"
            )
        if min(self.symbols, self.symbols_so_far, self.filled) <= 0 or self.known < 0:
            raise ValueError("symbols, symbols_so_far, filled: shares above 0; known: 0 tokens or more")
        if self.horizon & (self.horizon - 1) or not self.long_window <= self.horizon <= _GAP:
            raise ValueError("horizon must be a power of two below 4096, and not below long_window")
        if max(self.short_window, self.reach, self.far) > self.horizon:
            raise ValueError(f"short_window, reach, far: not above horizon, {self.horizon}; the rest is forgotten")
        for low, high in ((self.short_suspect, self.short_fallback), (self.long_suspect, self.long_fallback)):
            if not 0 < low <= high <= 1:
                raise ValueError("suspect and fallback are shares: 0 < suspect <= fallback <= 1")


class NearRepeat:
    """Feeds on the tokens of one channel."""

    def __init__(self, thresholds: NearThresholds | None = None) -> None:
        self._thresholds = chosen = thresholds or NearThresholds()
        self._short_suspect = round(chosen.short_suspect * chosen.short_window)
        self._long_suspect = round(chosen.long_suspect * chosen.long_window)
        self._horizon, self._reach, self._far = chosen.horizon, chosen.reach, chosen.far
        self._short_window, self._long_window = chosen.short_window, chosen.long_window
        self.reset()

    def reset(self) -> None:
        self._key = self._count = 0
        self._short = self._long = 0  # repeated grams in their windows
        self._symbols = self._so_far = 0  # tokens with symbols after the first `so_far`
        self._code: bool | None = None
        self._collection: bool | None = None
        self._new: dict[int, int] = {}  # gram -> index of its last occurrence, and the two gaps before it
        self._old: dict[int, int] = {}
        self._marks = array("H", bytes(2 * self._horizon))
        self._positions = array("Q", bytes(8 * self._horizon))
        self._since = 0  # index at which `fallback` was given
        self._above = 0  # index since which a share has been as high, 0 = it is not
        self.grade: Grade | None = None

    def push(self, position: int, token: int, symbol: bool) -> Grade | None:
        """Takes one token; answers the grade of what goes on now. symbol: TokenText.symbol."""
        count = self._count = self._count + 1
        key = self._key = (self._key << _SHIFT ^ token * _MIX) & _MASK
        new, marks, wrap = self._new, self._marks, self._horizon - 1
        mark = 0
        seen = new.get(key) or self._old.get(key)
        if seen is None:
            new[key] = count << 2 * _GAP_BITS
        else:
            gap = count - (seen >> 2 * _GAP_BITS)
            if gap <= self._horizon:
                before = seen >> _GAP_BITS & _GAP
                mark = gap << _MARK_BITS
                if before:
                    earlier = seen & _GAP
                    span = gap + before + earlier
                    if span <= self._horizon and (earlier or (gap >= self._far and min(gap, before) <= 2 * self._far)):
                        mark += _LONG | _SHORT if earlier and span <= self._reach else _LONG
                new[key] = count << 2 * _GAP_BITS | gap << _GAP_BITS | before
            else:
                new[key] = count << 2 * _GAP_BITS
        if len(new) > wrap:
            self._old, self._new = new, {}
        if symbol:
            mark |= _SYMBOL
            self._symbols += 1
        slot = count & wrap
        if mark & _FLAGS or self._short or self._long:
            self._short += (mark & _SHORT) - (marks[count - self._short_window & wrap] & _SHORT)
            self._long += (mark >> 1 & 1) - (marks[count - self._long_window & wrap] >> 1 & 1)
        marks[slot] = mark
        self._positions[slot] = position
        if slot == 0 and count - self._so_far >= _RECENT:
            self._so_far += _RECENT // 2
            self._symbols //= 2
        if self._short >= self._short_suspect or self._long >= self._long_suspect:
            return self._judge()
        if self.grade is not None:
            self.grade = self._code = self._collection = None
            self._above = 0
        return None

    def is_known_before(self, tokens: int) -> bool:
        """Whether enough came before the last `tokens` to say what it was."""
        return min(self._count, self._horizon) - tokens >= self._thresholds.known

    def is_code_before(self, tokens: int) -> bool:
        """Whether the text before the last `tokens` has a code's share of symbols; False where little is known."""
        if not self.is_known_before(tokens):
            return False
        known = range(tokens, min(self._count, self._horizon))
        symbols = sum(self._marks[self._count - back & self._horizon - 1] & _SYMBOL for back in known) // _SYMBOL
        return symbols > self._thresholds.symbols * len(known)

    def _is_code(self) -> bool:
        """By the channel so far and the short window; looked at again every _LOOK tokens."""
        if self._code is None or self._count % _LOOK == 0:
            chosen = self._thresholds
            window = range(min(self._short_window, self._count))
            symbols = sum(self._marks[self._count - back & self._horizon - 1] & _SYMBOL for back in window) // _SYMBOL
            self._code = symbols > chosen.symbols * len(window) or (
                self._symbols > chosen.symbols_so_far * (self._count - self._so_far)
            )
        return self._code

    def _is_collection(self) -> bool:
        """By what is new in the long window; looked at again every _LOOK tokens. Nobody collects for ever."""
        if self._count - self._above >= self._thresholds.collection:
            return False
        if self._collection is None or self._count % _LOOK == 0:
            new, filled = self._filled()
            self._collection = filled >= max(self._thresholds.slots, self._thresholds.filled * new)
        return self._collection

    def _filled(self) -> tuple[int, int]:
        """(New tokens of the long window, those of them that stand where the copy before was new too).

        A run of new tokens ends before one that is known, and that one's last occurrence is the place in the copy
        before. What followed there must have been known too: the first copy of all is new everywhere.
        """
        marks, wrap = self._marks, self._horizon - 1
        new = filled = run = 0
        oldest = max(1, self._count - wrap)
        for at in range(max(1, self._count - self._long_window + 1), self._count + 1):
            gap = marks[at & wrap] >> _MARK_BITS
            if not gap:
                run += 1
                continue
            before = at - gap
            if run and before > oldest and marks[before & wrap] >> _MARK_BITS:
                new += run
                there = range(max(oldest, before - run - _GRAM + 1), before)
                if sum(not marks[back & wrap] >> _MARK_BITS for back in there) >= min(run, _GRAM):
                    filled += run
            run = 0
        return new, filled

    def _judge(self) -> Grade | None:
        chosen = self._thresholds
        short = self._short >= chosen.short_fallback * chosen.short_window
        long = self._long >= chosen.long_fallback * chosen.long_window
        self._above = (self._above or self._count) if short or long else 0
        if self._is_code():
            self.grade = None
        elif not short and (not long or self._is_collection()):
            self.grade = Grade.SUSPECT
        elif self.grade is None or self.grade is Grade.SUSPECT:
            self.grade, self._since = Grade.FALLBACK, self._count
        elif self._count - self._since >= chosen.abort_after:
            self.grade = Grade.ABORT
        return self.grade

    def finding(self, channel: str, position: int) -> Finding:
        """What is told at the token at which a grade was reached; O(horizon)."""
        assert self.grade is not None
        steps, gap = self._reaches()
        evidence = {
            "short": round(self._short / self._short_window, 3),
            "long": round(self._long / self._long_window, 3),
            "covered": steps,
            "gap": gap,
        }
        began = self._positions[self._count - steps + 1 & self._horizon - 1]
        reason = f"{self.grade.name.lower()}: the same words again and again"
        return Finding("loop.near", self.grade, channel, position, began, reason, evidence)

    def _reaches(self) -> tuple[int, int]:
        """(How many of the last tokens repeat earlier ones, the median distance to those).

        The first copy is new where it is said, so what repeats begins with the second: the best suffix, where a
        repeated gram counts 1 and a new one -1.
        """
        best = score = 0
        steps = 1
        for back in range(min(self._count, self._horizon)):
            score += 1 if self._marks[self._count - back & self._horizon - 1] >> _MARK_BITS else -1
            if score > best:
                best, steps = score, back + 1
        marks = (self._marks[self._count - back & self._horizon - 1] for back in range(steps))
        gaps = sorted(mark >> _MARK_BITS for mark in marks if mark >> _MARK_BITS)
        return steps, gaps[len(gaps) // 2] if gaps else 0
