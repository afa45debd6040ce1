"""A client for the daemon that a configuration describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.client import Client
from service.layout import layout_of, read_endpoints

if TYPE_CHECKING:
    from collections.abc import Collection

    from service.config import Config


def connection(config: Config, *, kinds: Collection[str] | None = None, local: bool = False) -> Client:
    """Client for the daemon that this configuration describes, wherever its sockets are.

    Parameters
    ----------
    local : use the operator's socket, over which commands are accepted.
    """
    known = read_endpoints(layout_of(config))
    bind, events = config.events.bind, config.events
    return Client(
        known.events if known else f"tcp://{bind}:{events.events_port}",
        (known.local if local else known.journal) if known else f"tcp://{bind}:{events.journal_port}",
        instance=config.instance.name,
        kinds=kinds,
        name="streamer",
    )
