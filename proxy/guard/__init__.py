"""The guarded session: one response from backend deltas to client events, and all that it is made of.

Must not: know a wire format, HTTP, or a backend's kind. Invariant: what a client was sent is never contradicted.
"""
