import select
import threading

import pytest

from service.daemon.arrivals import WatchThread
from streamer.errors import ServiceError
from streamer.watch.settings import WatchSettings
from streamer.watch.watcher import Watcher


class Scripted(Watcher):
    """Finds what it is told to, then waits, or ends."""

    def __init__(self, tmp_path, found, *, ends=False):
        super().__init__(WatchSettings(root=str(tmp_path)))
        self._script, self._ends = found, ends

    def arrivals(self, stop):
        yield from self._script
        if self._ends:
            return
        stop.wait()


def readable(watching, seconds=5.0):
    return bool(select.select([watching.fileno()], [], [], seconds)[0])


def test_what_is_found_wakes_the_daemon_once_and_keeps_its_order(tmp_path):
    found = [object() for _ in range(100_000)]  # more than a pipe holds
    watching = WatchThread(Scripted(tmp_path, found))
    seen = []
    while len(seen) < len(found):
        assert readable(watching)
        seen += watching.arrivals()
    assert seen == found
    # the thread's last word may come after its last find was taken
    for _ in range(2):
        list(watching.arrivals())
        still = readable(watching, 0.05)
    assert not still
    watching.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "watch"]


def test_a_watcher_that_ends_by_itself_is_an_error_after_what_it_found(tmp_path):
    found = [object()]
    watching = WatchThread(Scripted(tmp_path, found, ends=True))
    watching._thread.join(5.0)
    arrivals = watching.arrivals()
    assert next(arrivals) is found[0]
    with pytest.raises(ServiceError, match="the watching thread has ended"):
        next(arrivals)
    watching.close()
