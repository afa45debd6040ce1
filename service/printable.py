"""Untrusted text on a terminal or in a log: a file name may contain line breaks, escape sequences and odd bytes."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text on one line, with ``?`` for each character that does not display as one.

    These are control and formatting characters, line breaks, odd spaces, and the lone surrogates that stand for the
    bytes of a name that is not UTF-8: written as they are, they would come out as raw bytes or not at all.
    """
    return "".join(c if c.isprintable() else "?" for c in text)
