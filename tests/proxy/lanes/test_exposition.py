"""Metrics of three dialects, of several engines, of restarted ones, and what is none."""

from __future__ import annotations

import pytest

from proxy.lanes.exposition import MOST_LINES, Exposition, Unreadable, together


def vllm(drafted: float, accepted: float, engine: str = "0", total: str = "_total") -> str:
    label = f'{{engine="{engine}",model_name="m"}}'
    return (
        "# TYPE vllm:spec_decode_num_draft_tokens counter\n"
        f"vllm:spec_decode_num_draft_tokens{total}{label} {drafted}\n"
        f"vllm:spec_decode_num_accepted_tokens{total}{label} {accepted}\n"
    )


def test_engines_are_told_apart_and_summed() -> None:
    before = Exposition.parse(vllm(100, 50) + vllm(10, 5, "1"))
    after = Exposition.parse(vllm(150, 60) + vllm(70, 65, "1"))
    assert after.kind == "vllm" and after.tells_drafts
    assert (after.grown("drafted", before), after.grown("accepted", before)) == (110, 70)


def test_several_addresses_with_the_same_labels_are_several_engines() -> None:
    before = together(Exposition.parse(vllm(100, 50), source) for source in ("a", "b"))
    after = together([Exposition.parse(vllm(110, 55), "a"), Exposition.parse(vllm(107, 50), "b")])
    assert (after.grown("drafted", before), after.grown("accepted", before)) == (17, 5)


def test_a_counter_that_began_anew_is_not_negative() -> None:
    before, after = Exposition.parse(vllm(1000, 900)), Exposition.parse(vllm(30, 20))
    assert (after.grown("drafted", before), after.grown("accepted", before)) == (30, 20)


def test_an_engine_that_was_not_there_before_adds_nothing() -> None:
    before, after = Exposition.parse(vllm(1, 1)), Exposition.parse(vllm(2, 1) + vllm(5000, 0, "9"))
    assert after.grown("drafted", before) == 1


def test_names_without_total_are_read_too() -> None:
    found = Exposition.parse(vllm(7, 3, total=""))
    assert found.tells("drafted") and found.tells("accepted") and not found.tells("drafts")


def test_gauges_of_sglang() -> None:
    text = 'sglang:spec_accept_rate{tp_rank="0"} 0.5\nsglang:spec_accept_rate{tp_rank="1"} 0.7\n'
    found = together([Exposition.parse(text), Exposition.parse("sglang:spec_verify_calls_total 12.0\n")])
    assert found.kind == "sglang" and found.gauges["rate"] == (0.5, 0.7) and found.tells_drafts


def test_the_configured_cache() -> None:
    text = 'vllm:cache_config_info{block_size="16",cache_dtype="fp8",enable_prefix_caching="True"} 1.0\n'
    assert Exposition.parse(text).configured["cache_dtype"] == "fp8"


def test_numbers_that_are_none_are_left_out() -> None:
    assert not Exposition.parse("llamacpp:spec_decode_num_draft_tokens_total NaN\n").tells("drafted")
    assert not Exposition.parse("llamacpp:spec_decode_num_draft_tokens_total -1\n").tells("drafted")
    assert Exposition.parse("other:spec_decode_num_draft_tokens_total 4\n").series == {}


@pytest.mark.parametrize("text", ["", "hello", "<html>prefix</html>", "vllm:num_requests_running 1.0\n"])
def test_what_tells_nothing_tells_nothing(text: str) -> None:
    assert not Exposition.parse(text).tells_drafts


def test_what_cannot_be_read() -> None:
    with pytest.raises(Unreadable):
        Exposition.parse('vllm:spec_decode_num_drafts_total{engine="0} 1\n')
    with pytest.raises(Unreadable, match="lines"):
        Exposition.parse("vllm:spec_decode_num_drafts_total 1\n" * (MOST_LINES + 1))
