"""Which addresses are public: reachable from anywhere, and so no way into a private network."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# Of IPv6, only this is given out for hosts (RFC 4291); what lies beside it is for networks
# themselves, or stands for an IPv4 address.
GLOBAL_UNICAST = IPv6Network("2000::/3")
# Parts of it that no server has: 6to4 and Teredo, which carry an IPv4 address, and documentation.
# Not all versions of Python know that these are not global.
EXCLUDED = (IPv6Network("2002::/16"), IPv6Network("2001::/32"), IPv6Network("3fff::/20"))
# DNS64 makes such addresses for servers without IPv6 (RFC 6052).
NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an address (as getaddrinfo() returns it) is public."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return _is_public_ipv4(parsed)
    if parsed.ipv4_mapped:
        return _is_public_ipv4(parsed.ipv4_mapped)
    if parsed in NAT64:
        return _is_public_ipv4(IPv4Address(int(parsed) & 0xFFFF_FFFF))
    return _is_public_ipv6(parsed)


def _is_public_ipv4(address: IPv4Address) -> bool:
    # Multicast counts as global in ipaddress.
    return address.is_global and not address.is_multicast


def _is_public_ipv6(address: IPv6Address) -> bool:
    is_excluded = any(address in network for network in EXCLUDED)
    return address in GLOBAL_UNICAST and address.is_global and not is_excluded
