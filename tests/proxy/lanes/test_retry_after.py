"""What is made of a server's `retry-after`, which may be anything."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from proxy.lanes.retry_after import MOST_S, retry_after_s


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "7", "Retry-After-Ms": "250"}, 0.25),
        ({"Retry-After": "7", "Retry-After-Ms": "soon"}, 7.0),
        ({"Retry-After": "86400"}, MOST_S),
        ({"Retry-After": "inf"}, MOST_S),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"Retry-After": "9" * 5000}, MOST_S),
    ],
)
def test_seconds(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(CIMultiDict(headers)) == seconds
