"""The benchmarks behind `specguard bench`, one folder each, and the form of their reports.

Must not: be imported by what they measure. Invariant: every bar is reported with its measured value.
"""
