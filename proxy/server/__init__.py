"""The HTTP server: from a configuration to an application, from client bytes to a guarded session and back.

Must not: parse or encode an API (`proxy.wire`), or watch a response (`proxy.guard`).
Invariant: nothing is retried after its first byte was sent.
"""
