"""Runnable examples: a small coding agent, the demo, configurations, and the training of the embedded model."""
