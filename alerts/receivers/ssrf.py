"""Prevents requests to private addresses (server-side request forgery, SSRF).

The check is on the very address that is connected to, when its socket is made. A check of the name, or of an earlier
answer of the resolver, could see another address than the connection uses.
"""

import ipaddress
import socket
from typing import Any, Final, TypeAlias

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address that is reached
_IPV4_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")  # RFC 4291, 2.5.5.1
_REFUSED: Final = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's platform endpoint, on a public address
    ipaddress.ip_network("192.0.0.0/24"),  # IETF assignments; Oracle Cloud's metadata is among them
    ipaddress.ip_network("64:ff9b:1::/48"),  # RFC 8215, local-use NAT64
)


class AddressRefusedError(OSError):
    """The address is one to which notifications must not be sent."""


def guarded_socket(addr_info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
    """Make the socket for one resolved address. For use as ``socket_factory`` of aiohttp's connector.

    Raises:
        AddressRefusedError: the address is not a public unicast one.
    """
    family, kind, protocol, _, sockaddr = addr_info
    address = str(sockaddr[0])
    if not is_public(address):
        raise AddressRefusedError(f"address {address} is not public; allow_private = true would permit it")
    return socket.socket(family, kind, protocol)


def is_public(address: str) -> bool:
    """Whether the text is an IP address that is public on the internet.

    An IPv6 address that embeds an IPv4 address is checked by the latter.
    """
    try:
        parsed = _reached(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    return (
        parsed.is_global
        and not parsed.is_multicast
        and not parsed.is_reserved
        and not parsed.is_unspecified
        and not parsed.is_link_local
        and not getattr(parsed, "is_site_local", False)
        and not any(parsed.version == net.version and parsed in net for net in _REFUSED)
    )


def is_private(host: str) -> bool:
    """Whether the host of a URL is a private or loopback address, as far as is known without a resolver."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
    return not is_public(host)


def _reached(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 address embeds, if it does; else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64 or address in _IPV4_COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address
