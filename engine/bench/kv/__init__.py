"""`bench engine --kv`: what compressed caches cost, save, and do to quality, and what the way back costs.

Must not: be imported by the engine.
Invariant: codecs are compared with `full` in the same process, on the same context, in turns.
"""
