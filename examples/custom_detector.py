"""A detector of your own: here, one that speaks when a text shouts.

Run it: python -m examples.custom_detector
It keeps the protocol: no I/O, no clock, bounded memory. To use it, feed it in detectors/watch.py beside the others.
"""

from detectors.finding import Finding, Grade


class Shouting:
    """SUSPECT once `limit` capital letters came without a small one."""

    def __init__(self, limit: int = 40) -> None:
        self.limit = limit
        self.reset()

    @property
    def grade(self) -> Grade | None:
        return Grade.SUSPECT if self.capitals >= self.limit else None

    def reset(self) -> None:
        self.capitals, self.began = 0, 0

    def feed(self, position: int, token: int, text: str) -> Finding | None:
        found = None
        for char in text:
            if char.isupper():
                self.began = self.began if self.capitals else position
                self.capitals += 1
                if self.capitals == self.limit:
                    found = Finding("custom.shouting", Grade.SUSPECT, "text", position, self.began, "capitals only")
            elif char.islower():
                self.capitals = 0
        return found


if __name__ == "__main__":
    detector = Shouting()
    print([found for i in range(20) if (found := detector.feed(i, 0, "LOUD "))])
