"""Decisions without side effects: which mode to decode in, what a finding leads to, who is to blame.

Must not: do I/O, read a clock, import `engine` or `proxy`.
Invariant: the same findings in the same order give the same decisions.
"""
