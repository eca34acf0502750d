"""How long the soak test runs: `--minutes`.

Must not: change anything for other tests. Invariant: without the option it is half an hour.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=30.0, help="how long the soak test loads the server")
