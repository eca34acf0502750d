"""The table of known-bad pairs: what matches, what does not, and that every row can be looked up."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from proxy.lanes import known_bad as module
from proxy.lanes.capabilities import LaneCapabilities
from proxy.lanes.known_bad import TABLE, distrusted, matches

VLLM = LaneCapabilities("vllm", "0.33.0", speculation="none", kv="auto", prefix_cache=False)
SGLANG = LaneCapabilities("sglang", "0.5.23", speculation="none", kv="auto", prefix_cache=True)
LLAMA = LaneCapabilities("llamacpp", "b1-0c1e570", speculation="none", kv="f16")


@pytest.mark.parametrize(
    ("lane", "ids"),
    [
        (VLLM, set()),
        (replace(VLLM, kv="fp8", speculation="ngram, 4 tokens"), {"ngram-hybrid"}),
        (replace(VLLM, kv="turboquant_k8v4"), set()),
        (replace(VLLM, kv="turboquant_k8v4", prefix_cache=True), {"turboquant-prefix-cache"}),
        (replace(VLLM, kv="turboquant_k8v4", speculation="eagle3"), {"turboquant-speculation"}),
        (replace(VLLM, kv="turboquant_3bit_nc"), {"three-bit-keys"}),
        (replace(VLLM, kv="ultraquant_4bit", speculation="on"), {"turboquant-speculation"}),
        (replace(VLLM, speculation="mtp, 3 tokens", prefix_cache=True), {"mtp-prefix-cache"}),
        (replace(VLLM, speculation="mtp, 3 tokens"), set()),
        (replace(VLLM, speculation="eagle3, fly acceptance"), {"lossy-acceptance"}),
        (replace(VLLM, kv="int8_per_token_head", prefix_cache=True), {"int8-prefix-cache"}),
        (SGLANG, set()),
        (replace(SGLANG, speculation="NEXTN, 4 tokens"), {"nextn-thinking-tools"}),
        (replace(SGLANG, speculation="EAGLE, rejection sampling", kv="fp8_e4m3"), {"fp8-rejection-sampling"}),
        (replace(SGLANG, speculation="EAGLE", kv="fp8_e4m3"), set()),
        (replace(SGLANG, speculation="EAGLE, single threshold 0.9"), {"lossy-acceptance"}),
        (replace(LLAMA, speculation="draft-mtp", kv="q8_0"), {"quantised-kv-mtp"}),
        (replace(LLAMA, speculation="draft-mtp"), set()),
        (replace(LLAMA, kv="q8_0"), set()),
        (LaneCapabilities("openai", speculation="mtp", kv="turboquant_k8v4", prefix_cache=True), set()),
    ],
)
def test_who_must_prove_himself(lane: LaneCapabilities, ids: set[str]) -> None:
    assert {row.id for row in distrusted(lane)} == ids


@pytest.mark.parametrize("lane", [replace(VLLM, speculation=None, kv="turboquant_k8v4"), replace(VLLM, kv=None)])
def test_what_is_not_told_does_not_match(lane: LaneCapabilities) -> None:
    assert not matches(replace(lane, prefix_cache=None))


def test_rows_to_watch_distrust_nobody() -> None:
    lane = replace(LLAMA, speculation="draft-mtp")
    assert {row.id for row in matches(lane)} >= {"mtp-long-then-short", "not-lossless"} and not distrusted(lane)


@pytest.mark.parametrize(
    ("version", "since", "fixed_in", "within"),
    [
        ("0.33.0", "", "", True),
        ("0.33.0", "", "0.34.0", True),
        ("v0.34.0", "", "0.34.0", False),
        ("0.34.1+cu129", "", "0.34.0", False),
        ("0.9.2", "", "0.34.0", True),
        ("0.17.0", "0.20.0", "", False),
        ("b1-0c1e570", "0.20.0", "0.34.0", True),  # cannot be read: not known to be repaired
        ("", "", "0.1.0", True),
    ],
)
def test_versions(version: str, since: str, fixed_in: str, within: bool) -> None:
    row = replace(TABLE[0], since=since, fixed_in=fixed_in)
    assert row.matches(replace(VLLM, version=version, kv="turboquant_k8v4", speculation="mtp")) == within


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.kind}-{row.id}")
def test_every_row_can_be_looked_up_and_acted_on(row: module.KnownBad) -> None:
    assert row.source and all(re.search(r"^[\w.-]+/[\w.-]+(#\d+|: \S+)|^[\w.-]+\.\w+, ", each) for each in row.source)
    assert row.remedy and row.consequence and (row.speculation or row.kv)
    assert all(word in row.told() for word in (row.id, row.remedy, row.source[0]))


def test_ids_are_one_of_a_kind() -> None:
    assert len({(row.kind, row.id) for row in TABLE}) == len(TABLE)
