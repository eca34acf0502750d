"""Structural tokens where none belong: one tag again and again, `<think>` re-opened, fill-in-the-middle or role tokens.

Must not: judge what stands inside a call (that is `qwen_stream`), or count a tag that is quoted: people ask about tags.
Invariant: grade, position and beginning do not depend on how the text was cut, tokens apart; memory is one open tag.

A run is one tag repeated with nothing but white space between: no format and no program text needs that, while broken
verify steps and damaged caches fall into it. `<tool_call>` before another one is a violation of the call's markup as
well, which speaks at the second; the run is what is left where that is only observed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from detectors.finding import Finding, Grade

THINK, THINK_END, CALL, CALL_END = "<think>", "</think>", "<tool_call>", "</tool_call>"
MISPLACED = (
    *("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    *("<tool_response>", "</tool_response>"),
)
"""Tokens of prompts and of training, which no response needs."""
_TAGS = (THINK, THINK_END, CALL, CALL_END, *MISPLACED)
_TAG = re.compile("|".join(map(re.escape, _TAGS)))
_LONGEST = max(map(len, _TAGS))
_BEGINNINGS = frozenset(tag[:end] for tag in _TAGS for end in range(1, len(tag)))
_QUOTES = frozenset("`'\"")


@dataclass(frozen=True, slots=True)
class Steps:
    """How many (copies, openings) reach each grade; None = never that grave."""

    suspect: int
    fallback: int | None = None
    abort: int | None = None

    def __post_init__(self) -> None:
        given = [each for each in (self.suspect, self.fallback, self.abort) if each is not None]
        if self.suspect < 1 or given != sorted(given):
            raise ValueError("suspect, fallback, abort: must be counts above 0 that do not fall")

    def reached(self, count: int) -> Grade | None:
        """The gravest grade that a count reaches."""
        for least, grade in ((self.abort, Grade.ABORT), (self.fallback, Grade.FALLBACK), (self.suspect, Grade.SUSPECT)):
            if least is not None and count >= least:
                return grade
        return None


@dataclass(frozen=True, slots=True)
class StructureSettings:
    """Tags of the chat format where none belongs; numbers of tags."""

    run: Steps = Steps(2, 3, 16)
    """Copies in a row in text and thinking. Two happen by accident; the reported loops (`<tool_call>`, `<fim_prefix>`
    x31) never stop at three, and plain decoding that writes sixteen will not stop either."""

    arguments: Steps = Steps(4, 8)
    """Copies in a row inside a call, where a file about tags may be written: never a reason to end."""

    reopened: Steps = Steps(2, 4, 32)
    """Times that `<think>` is opened again without a completed call between. Some models think in a few pieces; an
    article about the tag has them in quotes, or a few times bare."""

    misplaced: Steps = Steps(1, 6)
    """Tokens of prompts outside calls and quotes. One may be an answer about them, and so may six, which is why plain
    decoding has the last word."""


class StructureDetector:
    """Fed with the text of every token of a response; it knows by the tags what is inside a call."""

    def __init__(self, starts_thinking: bool = False, settings: StructureSettings = StructureSettings()) -> None:
        self._settings = settings
        self._state = "thinking" if starts_thinking else "text"
        self._open, self._open_began = "", 0  # may become a tag
        self._before = ""  # the character before
        self._run_tag, self._run, self._run_began = "", 0, 0
        self._thought = starts_thinking
        self._reopened, self._reopened_began = 0, 0
        self._misplaced, self._misplaced_began = 0, 0
        self._calls = 0
        self._told: dict[str, Grade] = {}

    @property
    def channel(self) -> str:
        """As `channels` names it: `thinking`, `text` or `tool:N`."""
        return f"tool:{self._calls}" if self._state == "call" else self._state

    @property
    def is_settled(self) -> bool:
        """No text waits to be known as a tag."""
        return not self._open

    def feed(self, position: int, text: str) -> Finding | None:
        """Takes one token's text; answers once per kind and grade, with the gravest if there are several."""
        if not self._open and "<" not in text:
            if text:
                self._pass(text)
            return None
        return self._scan(position, text)

    def _scan(self, position: int, text: str) -> Finding | None:
        old = len(self._open)
        text = self._open + text
        worst: Finding | None = None
        at = 0
        for match in _TAG.finditer(text):
            self._pass(text[at : match.start()])
            began = self._open_began if match.start() < old else position
            found = self._meet(match[0], position, began)
            if found is not None and (worst is None or found.grade > worst.grade):
                worst = found
            at = match.end()
        begin = text.rfind("<", max(at, len(text) - _LONGEST))
        if begin >= 0 and text[begin:] in _BEGINNINGS:
            self._open_began = self._open_began if begin < old else position
        else:
            begin = len(text)
        self._pass(text[at:begin])
        self._open = text[begin:]
        return worst

    def _pass(self, text: str) -> None:
        """Text between tags ends a run unless it is blank."""
        if text:
            self._before = text[-1]
            if self._run and not text.isspace():
                self._run = 0
                self._told.pop("struct.run", None)

    def _meet(self, tag: str, position: int, began: int) -> Finding | None:
        if self._before in _QUOTES:
            self._before, self._run = ">", 0
            self._turn(tag)
            return None
        self._before = ">"
        if tag != self._run_tag or not self._run:
            self._run_tag, self._run, self._run_began = tag, 0, began
            self._told.pop("struct.run", None)
        self._run += 1
        inside = self._state == "call" and tag != CALL_END
        steps = self._settings.arguments if inside and tag != CALL else self._settings.run
        findings = [self._grade("struct.run", steps, self._run, tag, position, self._run_began)]
        if tag in MISPLACED and not inside:
            self._misplaced += 1
            self._misplaced_began = self._misplaced_began if self._misplaced > 1 else began
            first = self._misplaced_began
            findings.append(
                self._grade("struct.misplaced", self._settings.misplaced, self._misplaced, tag, position, first)
            )
        if tag == THINK and self._state == "text" and self._thought:
            self._reopened += 1
            self._reopened_began = self._reopened_began if self._reopened > 1 else began
            findings.append(
                self._grade(
                    "struct.think", self._settings.reopened, self._reopened, tag, position, self._reopened_began
                )
            )
        self._turn(tag)
        return max((f for f in findings if f is not None), key=lambda f: f.grade, default=None)

    def _turn(self, tag: str) -> None:
        """Follows the channels as `channels` splits them; quoted tags open and close them too."""
        if self._state == "call":
            if tag == CALL_END:
                self._state, self._reopened = "text", 0
                self._calls += 1
                self._told.pop("struct.think", None)
        elif tag == CALL:
            self._state = "call"
        elif tag == THINK and self._state == "text":
            self._state, self._thought = "thinking", True
        elif tag == THINK_END and self._state == "thinking":
            self._state, self._thought = "text", True

    def _grade(self, name: str, steps: Steps, count: int, tag: str, position: int, began: int) -> Finding | None:
        grade = steps.reached(count)
        before = self._told.get(name)
        if grade is None or (before is not None and grade <= before):
            return None
        self._told[name] = grade
        reason = f"{grade.name.lower()}: {_REASONS[name]}"
        return Finding(name, grade, self.channel, position, began, reason, {"tag": tag, "copies": count})


_REASONS = {
    "struct.run": "a structural token repeats",
    "struct.misplaced": "a token of prompts was generated",
    "struct.think": "thinking is opened again and again",
}
