"""For subscribers: the one import path that other programs rely on. Needs only pyzmq and msgspec."""

from service.client.client import Client, Snapshot
from service.client.cursor import Cursor, FileCursor, MemoryCursor, SqliteCursor
from service.client.join import TooFarBehind
from service.wire.messages import Position

__all__ = ["Client", "Cursor", "FileCursor", "MemoryCursor", "Position", "Snapshot", "SqliteCursor", "TooFarBehind"]
