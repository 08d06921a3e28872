"""Client addresses, for rate limits on requests without a key: the peer's address, or the one that a trusted proxy reports.

``X-Forwarded-For`` is read from the right, as long as the address that added an entry belongs to a trusted proxy; entries to the left,
which a client can forge, are ignored. An IPv6 client is identified by its /64, because one machine usually owns all of it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any

from isoform.runtime.errors import UsageError

__all__ = ["Network", "client_address", "networks", "parsed"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PREFIX = 64
"""Bits of an IPv6 address that identify a client."""
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d{1,5})?|([\d.]+):\d{1,5}")
"""``[2001:db8::1]:99``, ``[2001:db8::1]`` and ``1.2.3.4:99``: some proxies add the port."""


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse addresses and networks (``10.0.0.0/8``) of proxies. Raises ``UsageError`` if one is invalid."""
    found = list[Network]()
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as problem:
            raise UsageError(
                f"--trusted-proxy is {text[:80]!r}, but an address or a network was expected: {problem}"
            ) from None
    return tuple(found)


def client_address(environ: dict[str, Any], proxies: tuple[Network, ...]) -> str:
    """The address of the client that sent a request; for IPv6 its /64, for a Unix socket an empty text.

    Args:
        environ: The request's WSGI environment.
        proxies: Networks whose ``X-Forwarded-For`` is trusted.
    """
    address = _address(environ.get("REMOTE_ADDR", ""))
    if address is None:  # a Unix socket has no peer address
        return ""
    for entry in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")) if proxies else ():
        if not any(address in network for network in proxies):
            break
        before = _address(entry.strip())
        if before is None:  # malformed: the proxy's own address is the last that can be trusted
            break
        address = before
    if address.version == 6:
        return str(ipaddress.ip_network((address, PREFIX), strict=False))
    return str(address)


def parsed(text: str) -> Address:
    """Parse an address; an IPv4-mapped IPv6 address becomes the IPv4 address. Raises ``ValueError`` if it is invalid."""
    # A dual-stack listener reports IPv4 clients as ::ffff:1.2.3.4: as IPv6 they would all share one /64.
    found = ipaddress.ip_address(text)
    return getattr(found, "ipv4_mapped", None) or found


def _address(text: str) -> Address | None:
    """Parse an address and strip its port and zone; None if it is invalid."""
    port = _WITH_PORT.fullmatch(text)
    try:
        return parsed((port[1] or port[2] if port else text).partition("%")[0])
    except ValueError:
        return None
