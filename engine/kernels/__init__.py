"""Kernels for devices other than a CPU. They stand for torch operators of the same meaning, which remain the reference.

Must not: be needed. Without triton, without a device, or where a kernel fails its check, the operators do the work.
Invariant: which of the two reads a cache is settled by the start-up self-test, before the first turn.
"""
