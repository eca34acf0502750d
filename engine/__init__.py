"""The built-in inference engine: models, KV cache, drafters, verification, sessions; usable alone as a library.

Must not: import anything else of ours, or need more than torch, numpy, safetensors, tokenizers and jinja2.
Invariant: same seed, same text: plain, n-gram, MTP, any draft length, switched at any token.
"""
