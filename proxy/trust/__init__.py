"""Which decode modes are trusted, how far, and how they come back: qualification, breakers, canaries.

Must not: run while somebody waits. Invariant: what is not known to be sound is not trusted.
"""
