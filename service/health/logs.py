"""The daemon's log: one line per message on standard error, with the time unless the system's journal adds its own."""

from __future__ import annotations

import logging
import os
import sys

from service.printable import printable


class _OneLine(logging.Formatter):
    """File names are untrusted text: they can neither break a line nor control a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        return printable(super().formatMessage(record))


def log_to_stderr() -> None:
    """Set up logging for a process that runs in the foreground."""
    stamp = "" if os.environ.get("JOURNAL_STREAM") else "%(asctime)s "
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(f"{stamp}%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
