"""Settings that every test shares.

Must not: import torch (most tests do without it, and it costs seconds) or hold fixtures of a single folder.
Invariant: every stream of a response is checked against the rules of its API, whatever else a test looks at. Arithmetic
runs on one thread, in this process and in servers that a test starts, so that timings and results do not depend on how
many cores the machine has.
"""

import gc
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings

from tests.watched_streams import Watch

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
if "torch" in sys.modules:  # a plugin was faster: the variables come too late for this process
    sys.modules["torch"].set_num_threads(1)

# Whoever runs the suite in the background of a script has told it to ignore Ctrl-C, and all it starts would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run: a failure on one machine can be repeated on another.
settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
# `HYPOTHESIS_PROFILE=search make test` looks for new examples instead.
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collectstart() -> None:
    """A million objects come into being while the tests are imported, and next to none of them dies."""
    gc.disable()


def pytest_collection_finish() -> None:
    """From here on garbage is collected, but not sought among what collecting the tests has left."""
    gc.freeze()
    gc.enable()


OURS = ["proxy", "policies", "detectors", "prometheus_client"]
MAY_BLOCK = {
    "proxy/server/app.py": {"create_app"},  # before anybody is served
    "prometheus_client/process_collector.py": {"collect"},  # the kernel's own files wait for no device
    # the source lines of a traceback: something of ours has failed, which is not to happen, let alone often
    "linecache.py": {"getlines", "checkcache", "updatecache"},
    "rich/traceback.py": {"_render_stack"},
}


@pytest.fixture
def nothing_blocks() -> Iterator[BlockBuster]:
    """Calls that block the event loop are failures: while one waits, nobody is served.

    For tests of a live server that do not call such things themselves.
    """
    with blockbuster_ctx(OURS) as watching:
        for function in watching.functions.values():
            for file, names in MAY_BLOCK.items():
                function.can_block_in(file, names)
        yield watching


@pytest.fixture(scope="session")
def stream_watch() -> Iterator[Watch]:
    """Sees all streams that are made in this process."""
    watch = Watch()
    with watch.installed():
        yield watch


@pytest.fixture(autouse=True)
def streams_obey_their_rules(stream_watch: Watch) -> Iterator[None]:
    yield
    stream_watch.check()
