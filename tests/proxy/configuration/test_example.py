"""The example configuration is the model's, to the byte."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from proxy.configuration.config import Config
from proxy.configuration.detector_section import reasons_of
from proxy.configuration.example import FILE, example
from proxy.configuration.sources import dotted, load


def test_the_file_is_what_is_written() -> None:
    assert FILE.read_text(encoding="utf-8") == example(), "run `python -m proxy.configuration.example`"


def test_it_sets_nothing(tmp_path: Path) -> None:
    assert load(FILE, {}, {}) == Config()


def test_every_key_stands_in_it_once() -> None:
    said = tomllib.loads(re.sub(r"(?m)^# ([a-z_]+ = )", r"\1", example()))
    known = dotted(Config().model_dump(mode="json"))
    assert {key for key in dotted(said) if not key.startswith("detectors.")} == {
        key for key in known if not key.startswith("detectors.")
    }


@pytest.mark.parametrize("name", [n for n, f in Config.model_fields.items() if n != "detectors"])
def test_every_key_has_a_reason(name: str) -> None:
    """Its own, or that of its group, which stands after the last of them."""
    section = getattr(Config(), name)
    if not isinstance(section, BaseModel):
        assert reasons_of(Config)[name]
        return
    names = list(type(section).model_fields)
    reasons = reasons_of(type(section))
    assert names[-1] in reasons
    assert all(reasons.values()) and set(reasons) <= set(names)
