"""What an inference server's `/metrics` says of drafts, prefix cache and configuration, whoever's server it is.

Must not: take a missing number for zero, or read more of an exposition than the lines that it knows (a data-parallel
server sends megabytes of histograms, and parsing is slow).
Invariant: every counter of every engine is a series of its own, so that one that begins anew is noticed.

Names: vLLM and llama.cpp count `spec_decode_num_*` under prefixes of their own; SGLang tells gauges
(`spec_accept_rate`, `spec_accept_length`) and counts `spec_verify_calls`. Read in vLLM 0.33, SGLang 0.5.23, llama.cpp
0c1e57098.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

COUNTED = {
    "spec_decode_num_drafts": "drafts",
    "spec_decode_num_draft_tokens": "drafted",
    "spec_decode_num_accepted_tokens": "accepted",
    "spec_verify_calls": "verified",
    "prefix_cache_queries": "prefix_queries",
    "prefix_cache_hits": "prefix_hits",
    "corrupted_requests": "corrupted",
}
GAUGES = {"spec_accept_rate": "rate", "spec_accept_length": "length"}
CONFIGURED = "cache_config_info"
DIALECTS = ("vllm", "sglang", "llamacpp")
"""Prefixes of names, which are those of the kinds."""
MOST_LINES = 4096
"""Of those that are read: 64 engines with a dozen series each are below it."""
Series = tuple[str, str]
"""A counter's name in COUNTED, and where it is from: address and labels."""


class Unreadable(Exception):
    """What came is no exposition."""


@dataclass(frozen=True, slots=True)
class Exposition:
    """kind: whose names are in it, "" = nobody's. series: counters as they stand. gauges: name -> one value per
    engine. configured: labels of the cache's configuration."""

    kind: str = ""
    series: Mapping[Series, float] = field(default_factory=dict)
    gauges: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    configured: Mapping[str, str] = field(default_factory=dict)

    @property
    def tells_drafts(self) -> bool:
        return any(name == "drafted" for name, _ in self.series) or bool(self.gauges)

    def tells(self, name: str) -> bool:
        """Whether there is such a counter."""
        return any(each == name for each, _ in self.series)

    def grown(self, name: str, before: Exposition) -> float:
        """What a counter has grown by, all engines together. One that is smaller than before was begun anew; of one
        that was not there before nobody knows since when it counts."""
        growth = 0.0
        for key, now in self.series.items():
            if key[0] == name and (then := before.series.get(key)) is not None:
                growth += now if now < then else now - then
        return growth

    @classmethod
    def parse(cls, text: str, source: str = "") -> Exposition:
        """source: the address it came from. Raises Unreadable."""
        known = (*COUNTED, *GAUGES, CONFIGURED)
        lines = [line for line in text.splitlines() if any(name in line for name in known)]
        if len(lines) > MOST_LINES:
            raise Unreadable(f"it has more than {MOST_LINES} lines about drafts and caches")
        kind = next((each for each in DIALECTS if f"\n{each}:" in text or text.startswith(f"{each}:")), "")
        series, gauges, configured = dict[Series, float](), dict[str, list[float]](), dict[str, str]()
        try:
            for family in text_string_to_metric_families("\n".join(lines) + "\n"):
                for sample in family.samples:
                    prefix, _, name = sample.name.partition(":")
                    name = name.removesuffix("_total")
                    if prefix not in DIALECTS:
                        continue
                    if name == CONFIGURED:
                        configured = dict(sample.labels)
                    elif not math.isfinite(sample.value) or sample.value < 0:
                        continue
                    elif name in COUNTED:
                        series[COUNTED[name], f"{source} {sorted(sample.labels.items())}"] = sample.value
                    elif name in GAUGES:
                        gauges.setdefault(GAUGES[name], []).append(sample.value)
        except Exception as error:  # the parser raises what its splitting happens to raise
            raise Unreadable(f"it cannot be read ({type(error).__name__})") from None
        return cls(kind, series, {name: tuple(values) for name, values in gauges.items()}, configured)


def together(parts: Iterable[Exposition]) -> Exposition:
    """Those of several engines as one."""
    kind, series, gauges, configured = "", dict[Series, float](), dict[str, tuple[float, ...]](), dict[str, str]()
    for part in parts:
        kind = kind or part.kind
        series |= part.series
        for name, values in part.gauges.items():
            gauges[name] = gauges.get(name, ()) + values
        configured = configured or dict(part.configured)
    return Exposition(kind, series, gauges, configured)
