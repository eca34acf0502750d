"""The numbers of the loop detectors, with units and reasons.

Must not: hold state, or depend on a model or a tokenizer.
Invariant: the defaults are the measured ones; `specguard bench detectors` shows what others would do.
"""

from __future__ import annotations

from dataclasses import dataclass

from detectors.near_repeat import NearThresholds
from detectors.period import ARGUMENTS, PROSE, Threshold, Thresholds


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """A grade is reached with so many copies of the unit, and so many tokens covered by them; `byte_*`: bytes. "never"
    leaves a grade out."""

    prose: Thresholds = PROSE
    """Text and thinking. A sentence said three times over 96 tokens is rare enough to hold text for; a fallback costs a
    second decoding, so it wants 4 copies over 256."""

    code: Thresholds = ARGUMENTS
    """Fenced code. Tables of bytes and test cases repeat: twice the coverage."""

    arguments: Thresholds = ARGUMENTS
    """Tool arguments. They are held until valid, so suspicion is free and there is no hurry."""

    base64: Thresholds = Thresholds(None, None, Threshold(6, 2048))  # noqa: RUF009 - frozen
    """Runs of base64: encoded zeros are legitimate, and 16 kB of them are not what a model should write by hand."""

    base64_chars: int = 256
    """Characters without a blank that make a run of base64; shorter ones are words and paths."""

    counter: Thresholds = Thresholds(  # noqa: RUF009 - frozen
        Threshold(4, 256), Threshold(4, 512), Threshold(6, 1536)
    )
    """Loops that count ("Step 1 ... Step 2 ..."), in symbols: a number is one. Lists and logs look alike while they are
    short, hence more coverage than for exact loops."""

    counter_from_start: int = 1024
    """Symbols for a fallback where nothing came before that could be known as code: lists of constants begin so."""

    near: NearThresholds = NearThresholds()  # noqa: RUF009 - frozen
    """Near-repeats in text and thinking. A share of one window alone flags 3 % of prose and 10 % of unfenced code,
    hence four occurrences, and nothing in code (`specguard bench detectors --corpus`)."""

    single_suspect_chars: int = 192
    single_fallback_chars: int = 288
    single_abort_chars: int = 4096
    """One character over and over: tokenizers fold it, 300 newlines may be five tokens. Rulers have up to 150."""

    byte_text: Thresholds = Thresholds(  # noqa: RUF009 - frozen
        Threshold(3, 384), Threshold(4, 512), Threshold(6, 4096)
    )
    """For upstreams without token ids, in bytes: about four to a token."""

    byte_text_short: Thresholds = Thresholds(  # noqa: RUF009 - frozen
        Threshold(3, 384), Threshold(4, 1024), Threshold(6, 4096)
    )
    """Units below 8 bytes: rulers and rows of dots."""

    byte_arguments: Thresholds = Thresholds(  # noqa: RUF009 - frozen
        Threshold(4, 1024), Threshold(4, 2048), Threshold(6, 8192)
    )
    """The same for tool arguments and fenced code."""

    def __post_init__(self) -> None:
        if self.counter_from_start < 64:
            raise ValueError(f"counter_from_start: must be 64 or more, not {self.counter_from_start}")
        if self.base64_chars < 64:
            raise ValueError(f"base64_chars: must be 64 or more, not {self.base64_chars}")
        if not 64 <= self.single_suspect_chars <= self.single_fallback_chars <= self.single_abort_chars:
            raise ValueError("single_*_chars: must be 64 or more and not fall from suspect to abort")
