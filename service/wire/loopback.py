"""As long as connections are not secured by keys, no other machine can reach our sockets. One rule for all of them."""

from __future__ import annotations

import ipaddress

from streamer.errors import ConfigError


def check_loopback(host: str, where: str) -> str:
    """Return the host as an address to bind; ``ConfigError`` (exit 78) unless it is this machine only."""
    # A name could be resolved to anything; this one is known.
    address = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            "binding beyond loopback is refused, because connections are not secured by keys yet",
            where=where,
            expected="127.0.0.1, localhost or [::1]",
            found=host,
            hint="reach it through an SSH tunnel",
        )
    return address
