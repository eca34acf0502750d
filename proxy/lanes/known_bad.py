"""Settings of inference servers that are known to go wrong in silence, with their sources.

Must not: ask a server; it judges what probing has found. What a server does not say matches nothing, which is told
where lanes are shown.
Invariant: every row has a source that can be looked up, and a remedy.

`untrusted` rows are faults that corrupt what is said while every health signal is green: a lane that matches serves
nobody until its canaries have passed. The others are shown and watched for: they cost speed or strike rarely, and
distrusting a whole method of drafting for them would leave no fast lane to anybody.

A pair that its project repairs gets `fixed_in`; none of these had a repaired release when they were read (vLLM 0.33.0,
SGLang 0.5.23, llama.cpp 0c1e57098; issues as of September 2026). A closed issue is no repair.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from proxy.lanes.capabilities import NO_DRAFTS, Kind, LaneCapabilities

ANY_DRAFTS = ".+"
VLLM, SGLANG, LLAMACPP = "vllm-project/vllm", "sgl-project/sglang", "ggml-org/llama.cpp"
SPARKS = "MiaAI-Lab/Qwen3.8-Flash-Next-Dual-DGX-Sparks"


@dataclass(frozen=True, slots=True)
class KnownBad:
    """speculation, kv: regular expressions on the server's words in lower case, "" = whatever. prefix_cache: True = it
    must be on. since, fixed_in: versions, "" = all, none yet. consequence: what is seen. source: `PROJECT#ISSUE`."""

    id: str
    kind: Kind
    consequence: str
    source: tuple[str, ...]
    remedy: str
    speculation: str = ""
    kv: str = ""
    prefix_cache: bool = False
    since: str = ""
    fixed_in: str = ""
    untrusted: bool = True

    def matches(self, lane: LaneCapabilities) -> bool:
        """What is not told does not match."""
        if lane.kind != self.kind or (self.prefix_cache and lane.prefix_cache is not True):
            return False
        if self.speculation and lane.speculation in (None, NO_DRAFTS):
            return False
        wanted = ((self.speculation, lane.speculation), (self.kv, lane.kv))
        if any(pattern and not re.search(pattern, (said or "").lower()) for pattern, said in wanted):
            return False
        return _is_within(lane.version, self.since, self.fixed_in)

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "id": self.id,
            "consequence": self.consequence,
            "source": list(self.source),
            "remedy": self.remedy,
            "untrusted": self.untrusted,
        }

    def told(self) -> str:
        """In one line."""
        return f"{self.id}: {self.consequence} ({', '.join(self.source)}); {self.remedy}"


TURBOQUANT = r"^(turboquant|ultraquant|octave)_"
TABLE = (
    KnownBad(
        "turboquant-speculation",
        "vllm",
        "verify batches captured in CUDA graphs read almost none of the cache: repeated special tokens, empty calls",
        (f"{VLLM}#40831", f"{VLLM}#53180", f"{VLLM}#53406"),
        'serve with fp8 KV, or set --compilation-config \'{"cudagraph_mode":"PIECEWISE"}\'',
        speculation=ANY_DRAFTS,
        kv=r"^(turboquant|ultraquant)_",
    ),
    KnownBad(
        "turboquant-prefix-cache",
        "vllm",
        "requests that hit the prefix cache lose their prefix when a long fresh prompt is in the same batch",
        (f"{VLLM}#46460",),
        "serve with fp8 KV, or set --no-enable-prefix-caching",
        kv=TURBOQUANT,
        prefix_cache=True,
    ),
    KnownBad(
        "int8-prefix-cache",
        "vllm",
        "with a full KV pool, pieces of other text appear inside coherent text and JSON",
        (f"{VLLM}#50702",),
        "serve with fp8 KV, or set --no-enable-prefix-caching",
        kv=r"^int8_per_token_head",
        prefix_cache=True,
    ),
    KnownBad(
        "mtp-prefix-cache",
        "vllm",
        "on hybrid models (Gated DeltaNet, Mamba) cached states are damaged: tool calls fail until a restart",
        (f"{VLLM}#53912", f"{VLLM}#43559", f"{VLLM}#47194"),
        "set --no-enable-prefix-caching on the fast lane; on models with attention alone canaries will clear it",
        speculation=r"mtp",
        prefix_cache=True,
    ),
    KnownBad(
        "ngram-hybrid",
        "vllm",
        "on hybrid models the next step reads a state of rejected drafts: empty or corrupted tool arguments",
        (f"{VLLM}#39273", f"{VLLM}#56077", f"{VLLM}#52942"),
        "draft with mtp instead; on models with attention alone canaries will clear it",
        speculation=r"^ngram",
    ),
    KnownBad(
        "lossy-acceptance",
        "vllm",
        "drafts are accepted that the model would not have said",
        (f"{VLLM}: vllm/config/speculative.py (rejection_sample_method)",),
        "set rejection_sample_method to standard or block",
        speculation=r"\b(fly|synthetic)\b",
    ),
    KnownBad(
        "mtp-loops",
        "vllm",
        "some turns of long agent sessions loop to the token limit, or acceptance falls to 0 for hours",
        (f"{VLLM}#47087", f"{VLLM}#55357"),
        "nothing is known; the guard watches for it",
        speculation=r"mtp",
        untrusted=False,
    ),
    KnownBad(
        "grammar-speculation",
        "vllm",
        "enforced JSON may get doubled braces or endless blanks where thinking ends inside a draft",
        (f"{VLLM}#48228", f"{VLLM}#55313", f"{VLLM}#44006"),
        "nothing is known; calls are validated here whatever the server enforces",
        speculation=ANY_DRAFTS,
        untrusted=False,
    ),
    KnownBad(
        "three-bit-keys",
        "vllm",
        "keys of 3 bits lose a tenth to a fifth of right answers, more in long contexts",
        (f"{VLLM}#38479", "vllm-project.github.io, 2026-05-11, A First Comprehensive Study of TurboQuant"),
        "use fp8 or turboquant_k8v4",
        kv=r"^(turboquant_(k3v4|3bit)|octave_k3)",
    ),
    KnownBad(
        "nextn-thinking-tools",
        "sglang",
        "with thinking and tools the response falls into `!!!!` (token 0), acceptance 0",
        (f"{SGLANG}#36537", f"{SPARKS}#19"),
        "leave out --speculative-algorithm for models that think, or serve with bf16 KV",
        speculation=r"nextn",
    ),
    KnownBad(
        "fp8-rejection-sampling",
        "sglang",
        "an fp8 KV cache with rejection sampling ends in `!!!!`",
        (f"{SPARKS}#19",),
        "set --kv-cache-dtype bf16, or leave out --speculative-use-rejection-sampling",
        speculation=r"rejection sampling",
        kv=r"fp8|fp4",
    ),
    KnownBad(
        "lossy-acceptance",
        "sglang",
        "drafts are accepted that the model would not have said",
        (f"{SGLANG}: server arguments speculative_accept_threshold_single, speculative_accept_threshold_acc",),
        "set both thresholds to 1.0",
        speculation=r"threshold",
    ),
    KnownBad(
        "penalties-speculation",
        "sglang",
        "penalties are not updated inside a draft, so that text with penalties is not what plain decoding says",
        (f"{SGLANG}: srt/speculative (0.5.23)",),
        "send no penalties",
        speculation=ANY_DRAFTS,
        untrusted=False,
    ),
    KnownBad(
        "quantised-kv-mtp",
        "llamacpp",
        "paragraphs that repeat in contexts of 100,000 tokens, with an acceptance of 0.88 just before",
        (f"{LLAMACPP}#23577",),
        "set --cache-type-k f16 --cache-type-v f16 on the fast lane",
        speculation=r"mtp",
        kv=r"(q[458]_|iq4)",
    ),
    KnownBad(
        "four-bit-kv",
        "llamacpp",
        "tool calls may lose their arguments, one of 14 where it was measured (on MLX, with 4 bits)",
        ("nicedreamzapp/claude-code-local#42",),
        "use q8_0 or f16",
        kv=r"(q[45]_|iq4)",
        untrusted=False,
    ),
    KnownBad(
        "mtp-long-then-short",
        "llamacpp",
        "a short request after a long one may repeat a sentence for ever",
        (f"{LLAMACPP}#27296",),
        "nothing is known; the guard watches for it",
        speculation=r"mtp",
        untrusted=False,
    ),
    KnownBad(
        "not-lossless",
        "llamacpp",
        "batches of other sizes use other kernels: three of four greedy responses differ from plain decoding",
        (f"{LLAMACPP}#27407", f"{LLAMACPP}#23335"),
        "expected; canaries compare answers here, not tokens",
        speculation=ANY_DRAFTS,
        untrusted=False,
    ),
    KnownBad(
        "checkpoint-livelock",
        "llamacpp",
        "on hybrid models a rejected draft may be verified again and again, and no token comes",
        (f"{LLAMACPP}#25819", f"{LLAMACPP}#23268"),
        "the guard gives up a stream that stands still",
        speculation=r"ngram",
        untrusted=False,
    ),
)


def matches(lane: LaneCapabilities) -> tuple[KnownBad, ...]:
    """All rows that hold for a lane."""
    return tuple(row for row in TABLE if row.matches(lane))


def distrusted(lane: LaneCapabilities) -> tuple[KnownBad, ...]:
    """Those for which it must prove itself first."""
    return tuple(row for row in matches(lane) if row.untrusted)


def _is_within(version: str, since: str, fixed_in: str) -> bool:
    """A version that cannot be read is within every range: it is not known to be repaired."""
    found = _numbers(version)
    if not found:
        return True
    if since and found < _numbers(since):
        return False
    return not fixed_in or found < _numbers(fixed_in)


def _numbers(version: str) -> tuple[int, ...]:
    """`v0.33.0rc1+cu129` -> (0, 33, 0); empty where there is no such number."""
    found = re.match(r"v?(\d+(?:\.\d+)+)", version)
    return tuple(int(part) for part in found[1].split(".")[:4]) if found else ()
