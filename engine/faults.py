"""Engine faults that can be planted on purpose, for tests, the demo and qualification.

Must not: be reachable by a client's request; only whoever starts the engine can plant one.
Invariant: without a planted fault no code path here is taken.
"""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """VERIFY_IGNORES_CACHE: a decode call with more than one real row sees, in full-attention layers, only the rows
    of its own block and not the cached context. The fault of vLLM #40831 (cause: #40880): draft and verification
    then agree on tokens that the context does not support, and every health light stays green."""

    VERIFY_IGNORES_CACHE = "verify-ignores-cache"
