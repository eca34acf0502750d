"""Benchmarks of the engine: drafters side by side on the same weights and prompts, and a real model's shape.

Must not: be imported by the rest of the engine, or need more than it (transformers is used where it is installed).
Invariant: what is compared was measured in one run, interleaved, and its tokens were compared too.
"""
