"""`python -m proxy` is the same as the command `specguard`."""

from __future__ import annotations

import sys

from proxy.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
