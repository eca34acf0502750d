"""What a response may still say so that it can be completed as demanded; for filtered decoding.

Must not: choose among what may be said. Invariant: what `allows` nothing of cannot be completed.
"""
