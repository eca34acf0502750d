"""What the tests of the wire modules share: any JSON value, and calls that must be refused.

Must not: know the fields of one API.
Invariant: a refusal is a RequestError whose message can be sent and, where it names a field, begins with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import strategies as st

from proxy import errors
from proxy.errors import RequestError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


def refused(call: Callable[[], object]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call()
    check_refusal(caught.value)
    return caught.value


def check_refusal(error: RequestError) -> None:
    """Whether it can be sent in both shapes with a status that blames the client."""
    for wire in ("openai", "anthropic"):
        assert 400 <= errors.status(wire, error) < 500
        assert orjson.dumps(errors.body(wire, error, "req_1"))
    assert error.kind in ("invalid_request", "previous_response_not_found")
    assert len(error.message) < 4000
    if error.param is not None:
        assert error.message.startswith(error.param)


def changed(body: dict[str, Any], key: str, value: Any) -> bytes:
    return orjson.dumps(body | {key: value})
