"""All defects by name.

Must not: define one. Invariant: names are unique.
"""

from __future__ import annotations

from tests.upstreams.defects import table
from tests.upstreams.model_defects import MODEL_DEFECTS
from tests.upstreams.wire_defects import WIRE_DEFECTS

DEFECTS = table(MODEL_DEFECTS, WIRE_DEFECTS)
