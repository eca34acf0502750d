"""What a missing capability costs is told, and nothing that is there is called missing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.lanes.capabilities import COSTS, NO_DRAFTS, LaneCapabilities, missing

ALL = LaneCapabilities(
    "vllm", "0.33.0", True, True, True, "metrics", True, "error_object", True, True, True, "mtp", "fp8", True, 8192
)
ALL = replace(ALL, prompt_ids=True, cache_hits="usage")


def test_nothing_is_missing_where_everything_is_there() -> None:
    assert missing(ALL) == {}


@pytest.mark.parametrize("name", COSTS)
def test_what_is_not_there_is_told_with_its_cost(name: str) -> None:
    value: Any = {"error_frame": "unknown", "draft_statistics": "none", "cache_hits": "none"}.get(name)
    absent = replace(ALL, **{name: value if name not in ("token_ids", "prefill") and value is not None else None})
    assert missing(absent) == {name: COSTS[name]}


def test_a_server_without_drafts_has_nothing_to_tell_of_them() -> None:
    plain = replace(ALL, speculation=NO_DRAFTS, draft_statistics="none", logprobs_under_speculation=None)
    assert missing(plain) == {} and not plain.speculates
    assert not replace(plain, speculation=None).speculates and ALL.speculates


def test_made_up_logprobs_are_told() -> None:
    assert "made up" in missing(replace(ALL, logprobs_under_speculation=False))["logprobs_under_speculation"]


def test_it_is_plain_data() -> None:
    assert json.loads(json.dumps(ALL.plain()))["speculation"] == "mtp"
