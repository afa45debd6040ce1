"""Subscribers in a process of their own, for tests that stop or kill them.

``stalled EVENTS N``: N sockets that are connected, subscribed and never read.
``storing EVENTS JOURNAL DATABASE``: stores each event with its cursor in one transaction, until killed.
"""

from __future__ import annotations

import sqlite3
import sys
import threading

import zmq

from service.client import Client, SqliteCursor


def stalled(events: str, count: str) -> None:
    """Connect and never read."""
    context = zmq.Context()
    sockets = []
    for _ in range(int(count)):
        socket = context.socket(zmq.SUB)
        socket.connect(events)
        socket.subscribe(b"")
        sockets.append(socket)
    sys.stdout.write("connected\n")
    sys.stdout.flush()
    threading.Event().wait()


def storing(events: str, journal: str, database: str) -> None:
    """Store what arrives, each once."""
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE IF NOT EXISTS got (number INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER)")
    connection.commit()
    cursor = SqliteCursor(connection)
    with Client(events, journal) as client:
        for event in client.events(cursor):
            with connection:
                connection.execute("INSERT INTO got (seq) VALUES (?)", (event.seq,))
                cursor.store(event.position)


if __name__ == "__main__":
    {"stalled": stalled, "storing": storing}[sys.argv[1]](*sys.argv[2:])
