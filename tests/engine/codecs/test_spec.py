"""Names, headers and refusals of the codecs."""

from __future__ import annotations

import pytest

from engine.codecs import spec
from engine.codecs.spec import CODECS, FULL, SPECS, check_codec, header, layer_codecs


def test_every_codec_has_its_own_header() -> None:
    assert len({header(name) for name in CODECS}) == len(CODECS)


@pytest.mark.parametrize("field", ["VERSION", "SEED", "FLUSH", "SINKS"])
def test_whatever_moves_a_bit_changes_the_header(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = header("k4v4")
    monkeypatch.setattr(spec, field, 99)
    assert header("k4v4") != before


def test_narrow_keys_are_refused_for_tools_unless_forced() -> None:
    with pytest.raises(ValueError, match=r"^codec: 'k3v3' .* tool calls"):
        check_codec("k3v3", tools=True)
    check_codec("k3v3", tools=True, forced=True)
    check_codec("k3v3")
    for name in ("k8v8", "k8v4", "k4v4", "k4v2", FULL):
        check_codec(name, tools=True)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^codec: 'k2v2' is unknown; use one of full, k8v8"):
        check_codec("k2v2", forced=True)


def test_the_ends_of_deep_dense_models_stay_full() -> None:
    assert layer_codecs("k4v4", 28, 0) == [FULL] * 2 + ["k4v4"] * 24 + [FULL] * 2
    assert layer_codecs("k4v4", 4, 0) == ["k4v4"] * 4
    assert layer_codecs("k4v4", 16, 48) == ["k4v4"] * 16, "a hybrid has few attention layers"
    assert layer_codecs(FULL, 28, 0) == [FULL] * 28


def test_the_names_say_the_bits() -> None:
    for name, codec in SPECS.items():
        assert name == codec.name == f"k{codec.key_bits}v{codec.value_bits}"
