"""Hosts as they are written in URLs: what can be one, and which lie inside. No name is ever looked up here."""

from __future__ import annotations

import ipaddress
import re
import socket

_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_host(host: str) -> bool:
    """Whether it is a name that can be looked up, in ASCII, or an IP address."""
    if ":" not in host:
        return len(host) <= 253 and _HOST.fullmatch(host) is not None
    ipaddress.ip_address(host)
    return True


def is_private(host: str) -> bool:
    """Whether a host, by what is written there, lies inside: no name is looked up. Also in the short forms of an IPv4 address (`127.1`)."""
    host = host.rstrip(".")
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")) or not ("." in host or ":" in host or host.isdigit()):
        return True
    try:
        address = ipaddress.ip_address(host if ":" in host else socket.inet_aton(host))
    except (ValueError, OSError):
        return False
    return any(not each.is_global or each.is_multicast for each in (address, *_inside(address)))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _inside(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for, where it is one of the forms that carry one."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or int(address) >> 32 == 0:
        carried.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in carried if each is not None]
