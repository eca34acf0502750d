"""Observers without side effects: they are fed text, tokens and numbers, and answer with findings.

Must not: import anything else of ours, do I/O, read a clock (time is an argument), keep unbounded memory.
Invariant: a detector's verdict does not depend on how its input was cut into pieces.
"""
