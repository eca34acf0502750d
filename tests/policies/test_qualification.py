"""The qualification file: what it may say, what is refused and how, and what it means for a mode."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.modes import DecodeMode
from policies.qualification import Ceiling, QualificationProblem, parse

FILE: dict[str, Any] = {
    "format": "specguard.qualification",
    "version": 1,
    "created": "2026-11-27T12:00:00Z",
    "model": "Qwen3.6-27B",
    "fingerprint": "f00d",
    "tool_format": "qwen_xml",
    "versions": {"specguard": "0.1.0", "torch": "2.13.0"},
    "modes": [
        {
            "drafter": "mtp+ngram",
            "codec": "k4v4",
            "buckets": [
                {"up_to_tokens": 4096, "trusted": True},
                {"up_to_tokens": 16384, "trusted": False, "why": "needle: 7 of 10, plain 10 of 10"},
                {"up_to_tokens": 32768, "trusted": True},
            ],
        },
        {"drafter": "none", "codec": "k4v4", "buckets": [{"up_to_tokens": 16384, "trusted": True}]},
    ],
}


def changed(**fields: Any) -> str:
    return json.dumps(FILE | fields)


def with_buckets(*buckets: dict[str, Any], drafter: str = "mtp", codec: str = "full") -> str:
    return changed(modes=[{"drafter": drafter, "codec": codec, "buckets": list(buckets)}])


def test_a_mode_is_trusted_up_to_the_first_bucket_that_failed() -> None:
    file = parse(json.dumps(FILE))
    reason = "not qualified at 4097-16384 tokens: needle: 7 of 10, plain 10 of 10"
    assert file.ceiling(DecodeMode("mtp+ngram", "k4v4")) == Ceiling(4096, reason)
    assert file.ceiling(DecodeMode("none", "k4v4")) == Ceiling(16384, "qualified up to 16384 tokens")
    assert file.ceiling(DecodeMode("ngram")) == Ceiling(0, "ngram/full was not qualified")


def test_another_model_or_tool_format_voids_it() -> None:
    file = parse(json.dumps(FILE).encode())
    assert file.voided("f00d", "qwen_xml") == ""
    assert "fingerprint f00d (Qwen3.6-27B), not beef" in file.voided("beef", "qwen_xml")
    assert "tool format qwen_xml, not json" in file.voided("f00d", "json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["the file: is no JSON", "specguard qualify"]),
        ("[]", ["the file:"]),
        (changed(version=2), ["version: this specguard reads version 1 only"]),
        (changed(format="other"), ["format:"]),
        (changed(except_when="hot"), ["except_when: version 1 has no such key"]),
        (json.dumps({k: v for k, v in FILE.items() if k != "fingerprint"}), ["fingerprint: is missing"]),
        (changed(fingerprint=""), ["fingerprint:"]),
        (with_buckets({"up_to_tokens": 4096, "trusted": "yes"}), ["modes.0.buckets.0.trusted:"]),
        (with_buckets({"up_to_tokens": "4096", "trusted": True}), ["modes.0.buckets.0.up_to_tokens:"]),
        (with_buckets({"up_to_tokens": 0, "trusted": True}), ["modes.0.buckets.0.up_to_tokens:"]),
        (with_buckets({"up_to_tokens": 4096, "trusted": False}), ["modes.0.buckets.0: why:"]),
        (with_buckets({"up_to_tokens": 4096, "trusted": True, "why": "?"}), ["modes.0.buckets.0: why:"]),
        (
            with_buckets({"up_to_tokens": 4096, "trusted": True}, {"up_to_tokens": 1024, "trusted": True}),
            ["modes.0: buckets: up_to_tokens must rise", "[4096, 1024]"],
        ),
        (with_buckets(), ["modes.0.buckets:"]),
        (with_buckets({"up_to_tokens": 1, "trusted": True}, drafter="medusa"), ["unknown drafter 'medusa'"]),
        (with_buckets({"up_to_tokens": 1, "trusted": True}, drafter="none"), ["plain decoding is what"]),
        (changed(modes=FILE["modes"] * 2), ["modes: a mode stands there twice"]),
    ],
)
def test_anything_else_is_refused_by_name(text: str, words: list[str]) -> None:
    with pytest.raises(QualificationProblem) as caught:
        parse(text)
    for word in words:
        assert word in str(caught.value)
