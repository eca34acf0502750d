"""Drafters: they guess the next tokens so that one step can verify several.

Must not: decide anything about the text. A wrong guess costs time, never a token.
Invariant: the verify loop treats every drafter alike; what a drafter proposes cannot change what is
generated.
"""
