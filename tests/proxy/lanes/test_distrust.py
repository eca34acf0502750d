"""A known-bad lane starts out of service in every bucket and comes back bucket by bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.breaker import BreakerSettings, bucket_of
from policies.modes import DecodeMode
from policies.trust import Served
from proxy.lanes.capabilities import LaneCapabilities
from proxy.lanes.distrust import POISONED, contexts_of, distrust, quarantine
from proxy.trust.keeper import TrustKeeper
from proxy.trust.store import TrustStore

FAST, COMPRESSED = DecodeMode("mtp", "full"), DecodeMode("none", "k8v8")
BAD = LaneCapabilities("vllm", "0.33.0", speculation="mtp, 3 tokens", kv="turboquant_k8v4", prefix_cache=True)
GOOD = LaneCapabilities("vllm", "0.33.0", speculation="eagle3", kv="fp8", prefix_cache=True)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[TrustKeeper]:
    keeper = TrustKeeper(TrustStore(tmp_path / "trust.json"), BreakerSettings(3, 600, 60, 600), now=lambda: 1000.0)
    keeper.serve(Served("f00d", "openai", 8192), ("plain", str(FAST)))
    yield keeper
    keeper.close()


async def mode_at(keeper: TrustKeeper, tokens: int) -> str:
    async def count() -> int:
        return tokens

    return str((await keeper.start(FAST, count)).mode)


@pytest.mark.parametrize(
    ("window", "contexts"),
    [
        (800, [800]),
        (1024, [1024]),
        (1025, [1024, 1025]),
        (8192, [1024, 4096, 8192]),
        (400_000, [1024, 4096, 16384, 32768, 65536, 131072, 262144, 400_000]),
    ],
)
def test_one_context_for_each_bucket(window: int, contexts: list[int]) -> None:
    assert contexts_of(window) == contexts
    assert [bucket_of(context) for context in contexts] == list(range(len(contexts)))


async def test_the_plain_lane_serves_until_canaries_have_passed(keeper: TrustKeeper) -> None:
    assert await mode_at(keeper, 300) == "mtp/full"
    rows = distrust(keeper, FAST, "fast", BAD, 8192)
    assert [row.id for row in rows] == ["turboquant-speculation", "turboquant-prefix-cache", "mtp-prefix-cache"]
    assert [await mode_at(keeper, tokens) for tokens in (300, 3000, 8000)] == ["plain"] * 3
    for served in (["mtp/full", "plain", "plain"], ["mtp/full"] * 2 + ["plain"], ["mtp/full"] * 3):
        key = keeper.due()  # at once: nothing has tripped yet that should cool down
        assert key is not None
        keeper.begin(key)
        keeper.passed(key, "fine")
        assert [await mode_at(keeper, tokens) for tokens in (300, 3000, 8000)] == served
    assert keeper.due() is None


async def test_a_failed_canary_keeps_it_out(keeper: TrustKeeper) -> None:
    distrust(keeper, FAST, "fast", BAD, 800)
    key = keeper.due()
    assert key is not None and keeper.records[key].trips[0].incident == "known-bad:turboquant-speculation"
    keeper.begin(key)
    keeper.failed(key, "needle fails")
    assert await mode_at(keeper, 300) == "plain" and keeper.due() is None


async def test_nothing_speaks_against_a_sound_lane_or_a_plain_one(keeper: TrustKeeper) -> None:
    assert not distrust(keeper, FAST, "fast", GOOD, 8192)
    assert distrust(keeper, COMPRESSED, "plain", BAD, 8192, plain=True)  # told, and serves all the same
    assert not keeper.records


async def test_what_is_out_already_stays_as_it_is(keeper: TrustKeeper) -> None:
    quarantine(keeper, FAST, "fast", "it says token 0")
    before = keeper.records
    distrust(keeper, FAST, "fast", BAD, 800)
    assert keeper.records == before


async def test_a_poisoned_lane_cools_down_first_and_is_out_at_every_length(keeper: TrustKeeper) -> None:
    quarantine(keeper, FAST, "fast", "it says token 0")
    (record,) = keeper.records.values()
    assert record.trips[0].incident == POISONED and keeper.due() is None and keeper.next_due_s() == 60
    assert [await mode_at(keeper, tokens) for tokens in (1, 8000)] == ["plain"] * 2


async def test_a_poisoned_plain_lane_is_told_and_still_serves(keeper: TrustKeeper) -> None:
    quarantine(keeper, COMPRESSED, "plain", "it says token 0", plain=True)
    assert not keeper.records


async def test_what_is_accused() -> None:
    from proxy.lanes.distrust import _accused
    from proxy.lanes.known_bad import distrusted

    only_kv = LaneCapabilities("vllm", kv="turboquant_3bit_nc", speculation="none")
    assert _accused(distrusted(only_kv)) == "kv"
    assert _accused(distrusted(LaneCapabilities("vllm", speculation="ngram"))) == "speculation"
    assert _accused(distrusted(BAD)) == "unknown"
