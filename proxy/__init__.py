"""HTTP and everything with side effects: wire formats, guarded sessions, backends, incident store, command line.

Must not: decide (that is `policies`) or observe (that is `detectors`) by itself.
Invariant: importing any module of this package except `proxy.backends.builtin` never imports torch.
"""
