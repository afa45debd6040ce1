"""A watcher in a process of its own that tells what it found: ``python -m tests.faults.watching_child ROOT``."""

from __future__ import annotations

import json
import sys
import threading
import time

from streamer.watch.settings import WatchSettings
from streamer.watch.watcher import Watcher


def main(root: str) -> None:
    """Watch until killed."""
    settings = WatchSettings(root=root, settle_s=0.5, sidecar_wait_s=0.5, scan_interval_s=3600.0, polling="never")
    watcher, stop, told = Watcher(settings), threading.Event(), 0.0
    found: list[str] = []

    def begin() -> None:
        while watcher.mode != "events":
            stop.wait(0.01)
        say({"mode": watcher.mode})

    threading.Thread(target=begin, daemon=True).start()
    for arrival in watcher.arrivals(stop):
        found.append(arrival.movie.relative)
        if time.monotonic() - told > 0.5 or len(found) % 1000 == 0:
            told = time.monotonic()
            say({"found": len(found), "twice": len(found) - len(set(found)), "overflows": watcher.overflows})


def say(words: dict[str, object]) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
