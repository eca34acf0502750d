"""Numbers that a server tells at `/metrics`: vLLM's drafts, and the bytes that specguard's sequences hold.

Must not: take a missing number for zero. Invariant: what is told of drafts is a difference of two scrapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from proxy.bench.pack.client import Drafts

DRAFTED = "vllm:spec_decode_num_draft_tokens_total"
ACCEPTED = "vllm:spec_decode_num_accepted_tokens_total"
STEPS = "vllm:spec_decode_num_drafts_total"
PLACED = "vllm:spec_decode_num_accepted_tokens_per_pos_total"


@dataclass(frozen=True, slots=True)
class Scrape:
    """values: name -> sum over all labels; placed: accepted tokens by position of a draft."""

    values: Mapping[str, float] = field(default_factory=dict)
    placed: Mapping[int, float] = field(default_factory=dict)
    kv_bytes: int | None = None

    @classmethod
    def parse(cls, text: str) -> Scrape:
        """Of an exposition; one that cannot be read says nothing."""
        values: dict[str, float] = {}
        placed: dict[int, float] = {}
        kv = None
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name in (DRAFTED, ACCEPTED, STEPS):
                        values[sample.name] = values.get(sample.name, 0.0) + sample.value
                    elif sample.name == PLACED:
                        place = int(sample.labels["position"])
                        placed[place] = placed.get(place, 0.0) + sample.value
                    elif sample.name == "specguard_memory_bytes" and sample.labels.get("part") == "sequences":
                        kv = int(sample.value)
        except (ValueError, LookupError, ArithmeticError):
            return cls()
        return cls(values, placed, kv)

    def drafts_since(self, before: Scrape) -> Drafts | None:
        """Between two scrapes; None where nothing is told of drafts, or what cannot be: a server that was started again
        meanwhile counts from 0."""
        if DRAFTED not in self.values:
            return None
        try:
            return self._grown(before)
        except (ValueError, OverflowError):  # not a number, or without end
            return None

    def _grown(self, before: Scrape) -> Drafts | None:

        def grown(name: str) -> int:
            return round(self.values.get(name, 0.0) - before.values.get(name, 0.0))

        steps = grown(STEPS)
        by_position = tuple(
            (steps, round(self.placed[place] - before.placed.get(place, 0.0))) for place in sorted(self.placed)
        )
        made = Drafts(grown(DRAFTED), grown(ACCEPTED), by_position)
        possible = all(0 <= kept <= of for of, kept in ((made.drafted, made.accepted), *by_position))
        return made if possible else None
