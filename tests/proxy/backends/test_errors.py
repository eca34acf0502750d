"""What a backend may raise: every error of it has a status in every API, and says what happened."""

from __future__ import annotations

import pytest

from proxy.backends import errors
from proxy.backends.errors import BackendError, ContextTooLong, EngineLost, Trouble
from proxy.errors import KINDS


def test_every_backend_error_has_a_status() -> None:
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, BackendError)]
    assert len(kinds) >= 8
    assert {e.kind for e in kinds} <= set(KINDS)


def test_an_overflow_says_both_numbers() -> None:
    error = ContextTooLong(9000, 8192)
    assert (error.tokens, error.limit) == (9000, 8192)
    assert str(error) == "prompt is too long: 9000 tokens > 8192 maximum"


@pytest.mark.parametrize(("final", "kind"), [(True, "internal"), (False, "overloaded")])
def test_a_lost_engine_can_be_asked_again_unless_its_trouble_is_final(final: bool, kind: str) -> None:
    lost = EngineLost(Trouble("died", "restart the server", final))
    assert (str(lost), lost.kind) == ("restart the server", kind)
