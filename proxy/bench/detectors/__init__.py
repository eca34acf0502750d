"""`specguard bench detectors`: what the detectors cost, find, and leave alone, against the bars they have to meet.

Must not: compare with anything but its bars, or leave a bar out of the answer.
Invariant: `missed` names exactly the bars whose measured value is beyond them. Times are processor time of this thread,
the best of several rounds: other work on the machine only adds to them.
"""

from proxy.bench.detectors.run import Corpus, measure

__all__ = ["Corpus", "measure"]
