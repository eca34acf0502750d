"""Every setting, where its value comes from, and what it needs of this machine.

Must not: build anything from it (`proxy.server.app` does).
Invariant: a key that is not known is refused, with the nearest one that is.
"""
