"""A journal and a publisher in a process of their own: ``python -m tests.faults.publishing_child STATE``.

Commands on standard input, one a line: ``append N RATE``, ``memory``, ``files``; an answer in JSON for each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import zmq

from service.journal.journal import Journal
from service.publishing.publisher import Publisher
from service.wire.heartbeat import Heartbeat
from service.wire.messages import Alert
from tests.faults.sites import descriptors, resident

_FILL = "x" * 3000


class Publishing:
    """The loop, and what it was told to do."""

    def __init__(self, state: Path) -> None:
        self.journal = Journal.open(state / "journal.sqlite")
        self.publisher = Publisher(
            self.journal.events,
            events="tcp://127.0.0.1:0",
            journal="tcp://127.0.0.1:0",
            preview="tcp://127.0.0.1:0",
            control=lambda verb, arguments: {"verb": verb},
        )
        self.left, self.period, self.due, self.next_beat = 0, 0.0, 0.0, 0.0

    def run(self) -> None:
        """Serve until the input ends."""
        say({"events": self.publisher.events_endpoint, "journal": self.publisher.journal_endpoint})
        poller = zmq.Poller()
        for source in (sys.stdin.fileno(), *self.publisher.sockets):
            poller.register(source, zmq.POLLIN)
        going_on = True
        while going_on:
            ready = dict(poller.poll(0.0 if self.left and time.monotonic() >= self.due else 5.0))
            for one in self.publisher.sockets:
                if one in ready:
                    self.publisher.handle(one)
            self.publish()
            if sys.stdin.fileno() in ready:
                going_on = self.obey(sys.stdin.readline().split())

    def publish(self) -> None:
        """Append the next event if it is due, and give signs of life."""
        if self.left and time.monotonic() >= self.due:
            words = f"{time.time()} {_FILL}"
            self.journal.events.append(Alert(name=f"a{self.left}", severity="info", state="cleared", message=words))
            self.publisher.publish_new()
            self.left, self.due = self.left - 1, max(time.monotonic(), self.due + self.period)
            if not self.left:
                say({"appended": self.journal.events.last_seq})
        if time.monotonic() >= self.next_beat:
            self.next_beat = time.monotonic() + 1.0
            self.publisher.heartbeat(Heartbeat())

    def obey(self, words: list[str]) -> bool:
        """Carry out a command; False at the end of the input."""
        if not words:
            return False
        if words[0] == "append":
            self.left, self.period, self.due = int(words[1]), 1.0 / float(words[2]), time.monotonic()
        elif words[0] == "memory":
            say({"memory": resident(os.getpid())})
        else:
            say({"files": descriptors(os.getpid()), "subscribers": self.publisher.subscribers})
        return True


def say(answer: dict[str, object]) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    Publishing(Path(sys.argv[1])).run()
