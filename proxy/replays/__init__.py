"""Runs captured responses again: whom to blame, and what another policy would have done.

Must not: touch a response that is being served. Invariant: a verdict rests on runs that differ in one axis.
"""
