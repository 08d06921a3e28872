"""A client's address, for limiting requests that have no key: the peer's, or what a trusted proxy says it is.

``X-Forwarded-For`` is read from the right, as long as the address that added an entry is a trusted proxy's; what a client wrote to its
left never counts. An IPv6 client is its /64, because one machine has all addresses of that.
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
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d{1,5})?|([\d.]+):\d{1,5}")
"""``[2001:db8::1]:99``, ``[2001:db8::1]`` and ``1.2.3.4:99``: some proxies add the port."""


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks (``10.0.0.0/8``) of proxies. Raises ``UsageError`` if one is none."""
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
    """Whose address sent a WSGI request.

    Args:
        environ: The request.
        proxies: Whose ``X-Forwarded-For`` is believed.
    """
    address = _address(environ.get("REMOTE_ADDR", ""))
    if address is None:
        return ""
    for entry in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")) if proxies else ():
        if not any(address in network for network in proxies):
            break
        before = _address(entry.strip())
        if before is None:
            break
        address = before
    if address.version == 6:
        return str(ipaddress.ip_network((address, PREFIX), strict=False))
    return str(address)


def parsed(text: str) -> Address:
    """An address; an IPv4 address in IPv6's form is that IPv4 address. Raises ``ValueError`` if it is none."""
    found = ipaddress.ip_address(text)
    return getattr(found, "ipv4_mapped", None) or found


def _address(text: str) -> Address | None:
    """An address without port and zone."""
    port = _WITH_PORT.fullmatch(text)
    try:
        return parsed((port[1] or port[2] if port else text).partition("%")[0])
    except ValueError:
        return None
