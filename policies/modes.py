"""Decode modes: a drafter and a KV codec, written `mtp+ngram/k4v4`; `plain` is no drafter and a full cache.

Must not: know how an engine implements a mode.
Invariant: `DecodeMode.parse(str(mode)) == mode`.
"""

from __future__ import annotations

from dataclasses import dataclass

DRAFTERS = ("none", "ngram", "mtp", "mtp+ngram")
CODECS = ("full", "k8v8", "k8v4", "k4v4", "k4v2", "k3v3")
ALIASES = {"turboquant": "k4v4"}


@dataclass(frozen=True, slots=True)
class DecodeMode:
    """drafter: one of DRAFTERS; codec: one of CODECS."""

    drafter: str = "none"
    codec: str = "full"

    def __post_init__(self) -> None:
        if self.drafter not in DRAFTERS:
            raise ValueError(f"unknown drafter {self.drafter!r}: use one of {', '.join(DRAFTERS)}")
        if self.codec not in CODECS:
            raise ValueError(f"unknown KV codec {self.codec!r}: use one of {', '.join(CODECS)}")

    @classmethod
    def parse(cls, text: str) -> DecodeMode:
        """Reads `plain`, `DRAFTER` or `DRAFTER/CODEC`; raises ValueError naming the part it does not know."""
        if text == "plain":
            return PLAIN
        drafter, _, codec = text.partition("/")
        return cls("none" if drafter == "plain" else drafter, ALIASES.get(codec, codec) or "full")

    @property
    def speculates(self) -> bool:
        return self.drafter != "none"

    def __str__(self) -> str:
        if self == PLAIN:
            return "plain"
        return f"{self.drafter}/{self.codec}"


PLAIN = DecodeMode()
