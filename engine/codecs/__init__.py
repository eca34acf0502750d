"""KV codecs: how committed keys and values are stored in few bits.

Rotate with a signed Hadamard matrix, look every coordinate up in a Lloyd-Max codebook, store one unbiased scale per
vector: TurboQuant without its second stage (Zandieh et al. 2504.19874), with the scale of DRIVE and EDEN (Vargaftik et
al. 2105.08339, 2108.08842), which gives the same bytes and a smaller error.

Must not: know caches, positions or attention.
Invariant: what a vector becomes depends on that vector alone, bit for bit.
"""
