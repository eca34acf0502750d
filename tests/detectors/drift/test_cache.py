"""A reported fault convicts at once and once; numbers convict only where no sound codec has them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from detectors.drift.cache import REASONS, CacheHealth
from detectors.drift.settings import DriftSettings
from detectors.finding import Finding, Grade


@dataclass(frozen=True)
class Fault:
    check: str = "read-back"
    layer: int = 1
    side: str = "keys"
    row: int = 128
    measured: float = 0.05
    limit: float = 0.005


@dataclass(frozen=True)
class Coding:
    bits: int = 4
    vectors: int = 512
    cosine: float = 0.991
    entropy: float | None = 3.76


@dataclass(frozen=True)
class Cache:
    faults: tuple[Fault, ...] = ()
    keys: Coding | None = field(default_factory=Coding)
    values: Coding | None = None
    sigma: float | None = 0.2


def told(*steps: Cache) -> list[Finding]:
    health = CacheHealth("k4v4")
    found = [health.feed(7 * n, cache) for n, cache in enumerate(steps)]
    return [finding for finding in found if finding is not None]


@pytest.mark.parametrize("check", REASONS)
def test_a_fault_convicts_at_once_and_accuses_the_whole_response(check: str) -> None:
    (finding,) = told(Cache(), Cache((Fault(check), Fault("seal"))))
    assert (finding.detector, finding.grade, finding.channel) == ("drift.kv", Grade.FALLBACK, "engine")
    assert (finding.position, finding.began) == (7, 0)
    assert finding.reason == REASONS[check]
    assert finding.evidence == {
        "check": check, "codec": "k4v4", "layer": 1, "side": "keys", "row": 128, "measured": 0.05, "limit": 0.005,
        "faults": 2,
    }  # fmt: skip


def test_the_same_thing_is_told_once() -> None:
    assert len(told(Cache((Fault(),)), Cache((Fault(),)), Cache((Fault("seal"), Fault())))) == 2


@pytest.mark.parametrize(("bits", "cosine"), [(2, 0.884), (3, 0.967), (4, 0.9908), (8, 0.9999)])
def test_expected_numbers_say_nothing(bits: int, cosine: float) -> None:
    entropy = {2: 1.91, 4: 3.77}.get(bits)
    assert told(Cache(keys=Coding(bits, 256, cosine, entropy), values=Coding(bits, 256, cosine, entropy))) == []
    assert told(Cache(keys=None, values=None)) == []


def test_a_rotation_without_effect_shows_in_the_cosine() -> None:
    (finding,) = told(Cache(values=Coding(cosine=0.93)))
    assert finding.evidence["side"] == "values"
    assert (finding.evidence["measured"], finding.evidence["limit"]) == (0.93, 0.98)
    assert told(Cache(values=Coding(cosine=0.93, vectors=127))) == []
    assert len(told(Cache(keys=Coding(cosine=float("nan"))))) == 1


def test_codes_that_use_few_levels_show_in_the_histogram() -> None:
    (finding,) = told(Cache(keys=Coding(entropy=2.0)))
    assert finding.reason == "codes use few levels"
    assert told(Cache(keys=Coding(3, entropy=None, cosine=0.967))) == []


@pytest.mark.parametrize("wrong", [{"cosines": {4: 1.0}}, {"entropies": {4: 4.0}}, {"coded_vectors": 1}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DriftSettings(**wrong)  # type: ignore[arg-type]
