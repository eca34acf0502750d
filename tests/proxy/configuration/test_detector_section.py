"""The [detectors] section: laid over what is shipped, refused where nobody reads it, written with its reasons."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from detectors.period import Threshold
from detectors.settings import DetectorSettings
from proxy.configuration.config import Config, ConfigProblem
from proxy.configuration.detector_section import laid_over, plain, written
from proxy.configuration.sources import load

EXAMPLE = Path(__file__).parents[3] / "examples" / "config.example.toml"
SHIPPED = DetectorSettings()


def set_by(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> DetectorSettings:
    file = tmp_path / "specguard.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, environment or {}, {}).detectors


def test_what_is_not_set_stays_as_shipped(tmp_path: Path) -> None:
    changed = set_by(tmp_path, "[detectors.loops.prose]\nfallback = { covered = 512 }")
    prose = replace(SHIPPED.loops.prose, fallback=Threshold(4, 512))
    assert changed == replace(SHIPPED, loops=replace(SHIPPED.loops, prose=prose))


def test_numbers_by_codec_and_by_bits(tmp_path: Path) -> None:
    text = (
        "[detectors.drift]\nagreement = { k4v4 = 0.9 }\ncosines = { 4 = 0.97 }\nagreement_by_bucket.k4v4 = { 1 = 0.93 }"
    )
    drift = set_by(tmp_path, text).drift
    assert dict(drift.agreement) == {**SHIPPED.drift.agreement, "k4v4": 0.9}
    assert dict(drift.cosines) == {**SHIPPED.drift.cosines, 4: 0.97}
    assert (drift.agreement_of("k4v4", 1), drift.agreement_of("k4v4", 0)) == (0.93, 0.9)


def test_a_grade_that_is_never_given(tmp_path: Path) -> None:
    changed = set_by(tmp_path, '[detectors]\nloops.prose.abort = "never"\nstructure.run.fallback = "never"')
    assert changed.loops.prose == replace(SHIPPED.loops.prose, abort=None)
    assert changed.structure.run.fallback is None


def test_the_environment(tmp_path: Path) -> None:
    environment = {"SPECGUARD_DETECTORS__STALL__FACTOR": "7", "SPECGUARD_DETECTORS__LOOPS__NEAR__REACH": "300"}
    changed = set_by(tmp_path, "[detectors.stall]\nfloor_s = 9", environment)
    assert (changed.stall.factor, changed.stall.floor_s, changed.loops.near.reach) == (7.0, 9.0, 300)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[detectors]\nlops = 1", ["detectors.lops", "did you mean 'loops'?"]),
        ("[detectors.loops.near]\nwindow = 1", ["detectors.loops.near.window", "did you mean"]),
        ("[detectors.loops.prose.fallback]\ncovers = 1", ["detectors.loops.prose.fallback.covers", "'covered'"]),
        ("[detectors.loops.prose.fallback]\ncopies = 2", ["detectors.loops.prose.fallback", "3 copies"]),
        ("[detectors.loops.prose.fallback]\ncopies = 9", ["detectors.loops.prose", "as much as the one before"]),
        ("[detectors.stall]\nfactor = 0", ["detectors.stall", "factor: must be above 0"]),
        ("[detectors.stall]\nfactor = inf", ["detectors.stall.factor", "finite"]),
        ("[detectors.stall]\nfactor = 'x'", ["detectors.stall.factor", "number"]),
        ("[detectors.drift]\ncosines = { 4 = 2.0 }", ["detectors.drift", "cosines: of 4 bits"]),
        ("[detectors]\nloops = 3", ["detectors.loops", "a line [detectors.loops]"]),
        ("detectors = 3", ["detectors", "a line [detectors]"]),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigProblem) as caught:
        set_by(tmp_path, text)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_the_section_as_it_is_written_is_what_is_shipped() -> None:
    text = written(SHIPPED, "detectors")
    assert Config.model_validate(tomllib.loads(text)) == Config()
    told = tomllib.loads(text)["detectors"]
    assert _keys(told) >= {key for key in _keys(plain(SHIPPED)) if not key.endswith((".1", ".2"))}


def test_the_example_holds_it_with_its_reasons() -> None:
    """After a change of the settings: put what `written(DetectorSettings(), "detectors")` gives into the example."""
    assert written(SHIPPED, "detectors") in EXAMPLE.read_text(encoding="utf-8")


def test_every_number_has_a_reason() -> None:
    """Before each key stands a comment, or another key of its group."""
    lines = written(SHIPPED, "detectors").splitlines()
    for before, line in pairwise(lines):
        if " = " in line and not line.startswith(("#", " ")):
            assert not before.startswith("["), line


@dataclass(frozen=True)
class Inner:
    """Some numbers.

    Not for users.
    """

    first: int = 1
    second: int | None = None
    """Both at once."""

    third: tuple[str, ...] = ("a",)
    """Words."""


@dataclass(frozen=True)
class Outer:
    """All of it."""

    inner: Inner = Inner()
    """Inside."""


def test_how_it_is_written() -> None:
    assert written(Outer(), "top") == (
        "# All of it.\n[top]\n\n# Inside.\n# Some numbers.\n[top.inner]\n# Both at once.\nfirst = 1\n"
        'second = "never"\n# Words.\nthird = ["a"]'
    )


def test_laid_over_and_plain() -> None:
    assert laid_over(Outer(), {"inner": {"first": 2, "odd": {"deep": 3}}, "other": 4}) == {
        "inner": {"first": 2, "second": None, "third": ("a",), "odd": {"deep": 3}},
        "other": 4,
    }
    assert laid_over(Outer(), 5) == 5 and laid_over(Outer(), Outer()) == Outer()
    assert orjson.loads(orjson.dumps(plain(SHIPPED)))["drift"]["cosines"]["4"] == 0.98


def _keys(data: Any, before: str = "") -> set[str]:
    """Dotted."""
    if not isinstance(data, dict):
        return {before}
    return {key for name, value in data.items() for key in _keys(value, f"{before}.{name}" if before else name)}
