"""The embedded model, loaded once for the benchmark's tests."""

from __future__ import annotations

import pytest

from engine.engine import EMBEDDED, Engine


@pytest.fixture(scope="session")
def embedded() -> Engine:
    return Engine(EMBEDDED)
