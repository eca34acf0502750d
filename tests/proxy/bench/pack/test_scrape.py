"""Scrapes: vLLM's counters as differences, bytes of specguard's sequences, and nothing from nonsense."""

from __future__ import annotations

from proxy.bench.pack.client import Drafts
from proxy.bench.pack.scrape import Scrape


def vllm(drafts: int, drafted: int, accepted: int, first: int) -> str:
    label = 'engine="0",model_name="m"'
    return (
        "# TYPE vllm:spec_decode_num_drafts counter\n"
        f"vllm:spec_decode_num_drafts_total{{{label}}} {drafts}.0\n"
        "# TYPE vllm:spec_decode_num_draft_tokens counter\n"
        f"vllm:spec_decode_num_draft_tokens_total{{{label}}} {drafted}.0\n"
        "# TYPE vllm:spec_decode_num_accepted_tokens counter\n"
        f"vllm:spec_decode_num_accepted_tokens_total{{{label}}} {accepted}.0\n"
        "# TYPE vllm:spec_decode_num_accepted_tokens_per_pos counter\n"
        f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{{label},position="0"}} {first}.0\n'
        f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{{label},position="1"}} {accepted - first}.0\n'
    )


def test_drafts_are_a_difference() -> None:
    before, after = Scrape.parse(vllm(10, 20, 9, 6)), Scrape.parse(vllm(15, 30, 16, 10))
    assert after.drafts_since(before) == Drafts(10, 7, ((5, 4), (5, 3)))
    assert Scrape().drafts_since(Scrape()) is None


def test_bytes_of_sequences() -> None:
    text = 'specguard_memory_bytes{part="weights"} 5.0\nspecguard_memory_bytes{part="sequences"} 77.0\n'
    assert Scrape.parse(text).kv_bytes == 77 and Scrape.parse("").kv_bytes is None


def test_nonsense_says_nothing() -> None:
    assert Scrape.parse("<html>\n{{{") == Scrape()


def test_what_cannot_be_says_nothing() -> None:
    first, again = Scrape.parse(vllm(15, 30, 16, 10)), Scrape.parse(vllm(1, 2, 1, 1))
    assert again.drafts_since(first) is None, "it was started again and counts from 0"
    assert Scrape.parse(vllm(10, 5, 9, 6)).drafts_since(Scrape()) is None, "more accepted than drafted"
    for value in ("NaN", "+Inf"):
        text = f"# TYPE vllm:spec_decode_num_draft_tokens counter\nvllm:spec_decode_num_draft_tokens_total {value}\n"
        assert Scrape.parse(text).drafts_since(Scrape()) is None
        assert Scrape.parse(f'specguard_memory_bytes{{part="sequences"}} {value}\n').kv_bytes is None
