"""The shipped tasks of the pack are what the generator writes."""

from __future__ import annotations

import json

from examples.embedded_model import pack_tasks
from proxy.bench.pack.tasks import SHIPPED


def test_the_file_is_up_to_date() -> None:
    assert pack_tasks.TARGET == SHIPPED
    assert json.loads(SHIPPED.read_text(encoding="utf-8")) == pack_tasks.content()
