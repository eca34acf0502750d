"""Settings refuse what cannot work and name the field; contexts fall into the right bucket."""

from __future__ import annotations

from typing import Any

import pytest

from detectors.drift.settings import DEFAULT, DriftSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("buckets", (4096, 4096)),
        ("buckets", (0, 5)),
        ("agreement", {"full": 1.0}),
        ("agreement", {"full": 0.1}),
        ("agreement_drop", 0.0),
        ("agreement_alpha", 0.97),
        ("calibration_tokens", 1.0),
        ("odds", 1.0),
        ("collapse_tokens", 1),
        ("saturation_entropy", -0.1),
        ("validity_drop", 0.98),
        ("validity_calls", 10**9),
        ("saturation_drafts", 10**9),
        ("agreement_by_bucket", {"k4v5": {1: 0.93}}),
        ("agreement_by_bucket", {"k4v4": {4: 0.93}}),
        ("divergence_by_bucket", {"k4v4": {-1: 0.2}}),
        ("agreement", {**DEFAULT.agreement, "k4v": 0.93}),
        ("divergence", {**DEFAULT.divergence, "k4v": 0.2}),
    ],
)
def test_what_cannot_work_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        DriftSettings(**{field: value})


def test_buckets_end_at_their_upper_edge() -> None:
    edges = [1, 4096, 4097, 16384, 65536, 65537, 10**6]
    assert [DEFAULT.bucket(context) for context in edges] == [0, 0, 1, 1, 2, 3, 3]


def test_a_measured_bucket_goes_before_the_codec_and_an_unknown_codec_is_judged_mildly() -> None:
    settings = DriftSettings(agreement_by_bucket={"k4v4": {2: 0.93}})
    assert settings.agreement_of("k4v4", 2) == 0.93
    assert settings.agreement_of("k4v4", 1) == 0.955
    assert settings.agreement_of("other", 0) == min(settings.agreement.values())
