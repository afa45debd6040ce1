"""Notifications to systemd: readiness, status and watchdog, as datagrams on the socket that it names.

Without systemd nothing happens. A notification that cannot be sent is not an error: the movies are more important.
"""

from __future__ import annotations

import os
import socket


def notify(
    *,
    ready: bool = False,
    status: str | None = None,
    watchdog: bool = False,
    stopping: bool = False,
) -> bool:
    """Notify systemd; returns whether the notification was sent.

    Parameters
    ----------
    status : one line for ``systemctl status``.
    watchdog : sign of life; only from the loop that does the work, never from a timer of its own.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    lines = [
        text
        for text, wanted in (
            ("READY=1", ready),
            ("STOPPING=1", stopping),
            ("WATCHDOG=1", watchdog),
            # A line break would start another assignment.
            (f"STATUS={' '.join((status or '').split())}", status is not None),
        )
        if wanted
    ]
    if not address.startswith(("/", "@")) or not lines:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode("utf-8", "replace"), address)
        except OSError:
            return False
    return True
