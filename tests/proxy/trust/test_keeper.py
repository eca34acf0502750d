"""From incidents to breakers to the mode that a request starts in, with the time turned by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from policies.breaker import BreakerSettings, Key
from policies.modes import PLAIN, DecodeMode
from policies.qualification import Qualification, parse
from policies.trust import Served
from proxy.incidents import Closure, Incident
from proxy.trust.keeper import REMEMBERED, TrustKeeper
from proxy.trust.store import TrustStore, read, write
from tests.policies.test_qualification import changed

BOTH, DRAFTS, CODES = DecodeMode("mtp+ngram", "k4v4"), DecodeMode("mtp+ngram"), DecodeMode("none", "k4v4")
SERVED = Served("f00d", "qwen_xml", 100_000)
BASE = Incident(**{f.name: "" for f in fields(Incident)})  # type: ignore[arg-type]


@dataclass
class Kept:
    """A keeper, its clock, and what its callers were asked."""

    keeper: TrustKeeper
    now: float = 1000.0
    made: int = 0
    counts: int = 0

    def trip(
        self,
        mode: DecodeMode = DRAFTS,
        culprit: str = "speculation",
        certainty: str = "likely",
        context: int = 500,
        **changes: Any,
    ) -> str:
        """One incident from its beginning to its end."""
        self.made += 1
        name = f"inc_{self.made}"
        fields = {"detector": "tool.schema", "action": "rewind", "fingerprint": "f00d"} | changes
        incident = replace(BASE, id=name, mode_before=str(mode), mode_after="plain", context=context, **fields)
        self.keeper.opened(incident)
        self.keeper.closed(Closure(name, "recovered", culprit, certainty, "stop", 1.0, 0, 5, 3))
        return name

    async def start(self, wanted: DecodeMode = DRAFTS, tokens: int = 500, **options: Any) -> tuple[DecodeMode, str]:
        async def count() -> int:
            self.counts += 1
            return tokens

        start = await self.keeper.start(wanted, count, **options)
        return start.mode, start.why


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(TrustKeeper(TrustStore(tmp_path / "trust.json"), BreakerSettings(3, 600, 60, 300), lambda: made.now))
    made.keeper.serve(SERVED, ())
    yield made
    made.keeper.close()


async def test_three_likely_trips_and_the_next_request_starts_plain(kept: Kept) -> None:
    for _ in range(2):
        kept.trip()
    assert await kept.start() == (DRAFTS, "")
    kept.trip()
    assert await kept.start() == (PLAIN, "the breaker mtp+ngram/full@0-1k is open")
    assert kept.counts == 0, "plain at any length, so nobody counts tokens"


async def test_a_proof_opens_before_its_response_has_ended(kept: Kept) -> None:
    incident = replace(BASE, id="i", detector="drift.audit", action="rewind", fingerprint="f00d")
    kept.keeper.opened(replace(incident, mode_before=str(DRAFTS), mode_after="plain", context=9))
    assert (await kept.start())[0] == PLAIN
    kept.keeper.closed(Closure("i", "recovered", "speculation", "certain", "stop", 1.0, 0, 5, 3))
    assert [len(record.trips) for record in kept.keeper.records.values()] == [1], "closing it counts it no second time"


async def test_what_no_mode_can_be_blamed_for_opens_nothing(kept: Kept) -> None:
    for _ in range(5):
        kept.trip(culprit="model", certainty="certain")
        kept.trip(culprit="prefix_cache", certainty="certain")
        kept.trip(certainty="certain", action="none")
        kept.trip(certainty="certain", detector="drift.dead_drafter")
        kept.trip(PLAIN, culprit="unknown", action="end")
    assert await kept.start() == (DRAFTS, "") and not kept.keeper.records


async def test_tokens_are_counted_only_where_the_answer_depends_on_them(kept: Kept) -> None:
    await kept.start(tokens=50_000)
    assert kept.counts == 0
    kept.trip(certainty="certain", context=9000)
    assert await kept.start(tokens=4096) == (DRAFTS, "")
    assert (await kept.start(tokens=4097))[0] == PLAIN
    assert kept.counts == 2
    assert await kept.start(DecodeMode("ngram"), tokens=9000) == (DecodeMode("ngram"), "")
    assert kept.counts == 2


async def test_the_safer_mode_follows_what_was_accused(kept: Kept) -> None:
    kept.trip(BOTH, "kv", "certain")
    assert (await kept.start(BOTH))[0] == DRAFTS
    kept.trip(DRAFTS, "speculation", "certain")
    assert (await kept.start(BOTH))[0] == PLAIN


async def test_a_judgement_replaces_the_verdict_of_the_response(kept: Kept) -> None:
    name = kept.trip(BOTH, "kv", "certain")
    kept.keeper.judged(SimpleNamespace(id=name, culprit="speculation", certainty="certain"))
    assert (await kept.start(BOTH))[0] == CODES
    name = kept.trip(CODES, "kv", "certain")
    kept.keeper.judged(SimpleNamespace(id=name, culprit="model", certainty="certain"))
    assert (await kept.start(CODES)) == (CODES, "")
    first = kept.trip(CODES, "unknown", "none")
    kept.keeper.judged(SimpleNamespace(id=first, culprit="unknown", certainty="none"))
    assert [r.weight for k, r in kept.keeper.records.items() if k.mode == str(CODES)] == [0.5], "says nothing new"
    kept.keeper.judged(SimpleNamespace(id="inc_unheard", culprit="kv", certainty="certain"))


async def test_a_full_cache_without_room_is_not_fallen_back_to(kept: Kept) -> None:
    kept.trip(BOTH, "unknown", "none")
    for _ in range(5):
        kept.trip(BOTH, "unknown", "none")
    asked: list[tuple[DecodeMode, int]] = []

    def fits(mode: DecodeMode, tokens: int) -> bool:
        asked.append((mode, tokens))
        return False

    mode, why = await kept.start(BOTH, tokens=700, fits=fits)
    assert mode == CODES and "no room for 700 tokens" in why
    assert asked == [(PLAIN, 700)]
    kept.trip(DRAFTS, certainty="certain")
    assert (await kept.start(DRAFTS, fits=fits))[0] == PLAIN, "it takes no more room than what was wanted"


async def test_state_outlives_the_process_and_other_models(kept: Kept) -> None:
    kept.trip(certainty="certain")
    kept.keeper.store.flush()
    again = Kept(TrustKeeper(TrustStore(kept.keeper.store.path), now=lambda: kept.now))
    again.keeper.serve(SERVED, ())
    assert (await again.start())[0] == PLAIN
    again.keeper.serve(replace(SERVED, fingerprint="other"), ())
    assert (await again.start())[0] == DRAFTS and not again.keeper.records
    again.keeper.serve(SERVED, ())
    assert (await again.start())[0] == PLAIN
    again.keeper.close()


async def test_a_reset_by_hand_holds_within_a_second(kept: Kept) -> None:
    kept.trip(certainty="certain")
    kept.keeper.store.flush()
    assert (await kept.start())[0] == PLAIN
    write(kept.keeper.store.path, {})
    kept.now += 1
    assert (await kept.start())[0] == DRAFTS


async def test_a_trip_while_the_file_is_read_is_not_lost(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.trip(certainty="certain", context=9000)
    kept.keeper.store.flush()
    write(kept.keeper.store.path, {})
    original = kept.keeper.store.load

    def slowly() -> Any:
        records = original()
        kept.trip(CODES, "kv", "certain")
        return records

    monkeypatch.setattr(kept.keeper.store, "load", slowly)
    await kept.keeper.look(at_once=True)
    assert str(CODES) in {key.mode for key in kept.keeper.records}


async def test_a_canary_decides_and_its_verdict_is_kept(kept: Kept) -> None:
    kept.trip(certainty="certain")
    assert kept.keeper.due() is None and kept.keeper.next_due_s() == 60
    kept.now += 60
    key = kept.keeper.due()
    assert key is not None
    kept.keeper.changed.clear()
    assert kept.keeper.begin(key).context == 500
    assert kept.keeper.changed.is_set()
    assert (await kept.start())[1].endswith("is half open")
    kept.keeper.failed(key, "needle differs")
    assert kept.keeper.next_due_s() == 120
    kept.now += 120
    kept.keeper.begin(key)
    kept.keeper.gave_up(key, "a client came", 5)
    assert kept.keeper.next_due_s() == 5
    kept.now += 5
    kept.keeper.begin(key)
    with capture_logs() as logs:
        kept.keeper.passed(key, "4 answers")
    assert [(line["event"], line["key"]) for line in logs] == [("breaker.closed", str(key))]
    assert (await kept.start())[0] == DRAFTS and kept.keeper.next_due_s() is None
    kept.keeper.store.flush()
    assert [record.state for record in read(kept.keeper.store.path).values()] == ["closed"]


def qualification(**fields: Any) -> Qualification:
    return parse(changed(**fields))


async def test_a_qualification_is_the_ceiling_unless_it_is_for_another_model(kept: Kept) -> None:
    kept.keeper.serve(SERVED, (), qualification(), ceiling_tokens=2000)
    assert await kept.start(BOTH, 4096) == (BOTH, "")
    mode, why = await kept.start(BOTH, 5000)
    assert mode == CODES and "needle: 7 of 10" in why
    with capture_logs() as logs:
        kept.keeper.serve(SERVED, (), qualification(fingerprint="beef"), ceiling_tokens=2000)
    assert logs[0]["event"] == "trust.qualification_void"
    assert await kept.start(BOTH, 2000) == (BOTH, "")
    assert (await kept.start(BOTH, 2001)) == (
        PLAIN,
        f"{BOTH} is trusted up to 2000 tokens (trust.ceiling_tokens is 2000)",
    )
    assert "not f00d" in kept.keeper.detail(BOTH)["note"]


@pytest.mark.parametrize("changes", [{"fingerprint": "beef"}, {"tool_format": "other"}])
async def test_with_a_qualification_of_another_model_nothing_is_trusted(kept: Kept, changes: dict[str, str]) -> None:
    """Whoever has asked for a qualification does not want modes that have none."""
    kept.keeper.serve(SERVED, (), qualification(**changes))
    for context in (1, 5000):
        mode, why = await kept.start(BOTH, context)
        assert mode == PLAIN and "trust.qualification is void: it is for" in why and "specguard qualify" in why
    kept.keeper.serve(SERVED, (), None)
    assert await kept.start(BOTH, 5000) == (BOTH, "")


def test_the_detail_says_what_is_open_and_how_far_trust_goes(kept: Kept) -> None:
    kept.keeper.serve(SERVED, (), None, 2000)
    kept.trip(BOTH, "kv", "certain", context=9000)
    kept.now += 10
    detail = kept.keeper.detail(BOTH)
    assert detail["breakers"] == [
        {
            "mode": "mtp+ngram/k4v4",
            "bucket": "4-16k",
            "state": "open",
            "accused": "kv",
            "trips": 1,
            "context": 9000,
            "canary_in_s": 50.0,
        }
    ]
    ceiling = {"tokens": 2000, "why": "trust.ceiling_tokens is 2000"}
    assert detail["trusted"] == {
        str(BOTH): ceiling,
        str(DRAFTS): ceiling,
        str(CODES): ceiling,
        "plain": {"tokens": 100_000, "why": None},
    }
    assert (detail["qualified"], detail["note"]) == ("configured", None)


def test_incidents_that_are_never_closed_take_no_memory(kept: Kept) -> None:
    for number in range(REMEMBERED + 10):
        kept.keeper.opened(replace(BASE, id=str(number), mode_before="plain", action="end", context=9))
    kept.keeper.closed(Closure("0", "recovered", "speculation", "certain", "stop", 1.0, 0, 5, 3))
    assert len(kept.keeper._incidents) == REMEMBERED


def test_keys_are_those_of_the_incident(kept: Kept) -> None:
    kept.trip(certainty="certain", context=20_000)
    assert list(kept.keeper.records) == [Key("f00d", "mtp+ngram/full", 3, "qwen_xml")]
