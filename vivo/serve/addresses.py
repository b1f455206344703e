"""Which addresses a picture may be fetched from: public ones, and the networks that were allowed by name."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

METADATA = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.23", "168.63.129.16", "100.100.100.200",
            "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::a9fe:a9fe",
        ),
    )
)  # fmt: skip
"""Where clouds tell a machine its secrets (AWS, GCP, Azure, Alibaba, Oracle, Tencent, OpenStack); never allowed, in no
network."""
_SPECIAL = tuple(
    map(
        ip_network,
        ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "3fff::/20", "5f00::/16", "fec0::/10"),
    )
)
"""What IANA keeps for special use and some versions of Python's `ipaddress` call global."""
_NAT64 = ip_network("64:ff9b::/96")


def is_allowed(address: Address, networks: Sequence[IPv4Network | IPv6Network] = ()) -> bool:
    """Whether a connection to it may be made."""
    every = [address, *_embedded(address)]
    if any(one in METADATA for one in every):
        return False
    return all(_is_public(one) for one in every) or any(
        network.version == every[-1].version and every[-1] in network for network in networks
    )


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and _embedded(address):
        return True  # what it carries is judged
    if any(network.version == address.version and address in network for network in _SPECIAL):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _embedded(address: Address) -> list[IPv4Address]:
    """The IPv4 address that an IPv6 address leads to: ::ffff:10.0.0.1 and its kin are 10.0.0.1."""
    if not isinstance(address, IPv6Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):  # the second: ::10.0.0.1, long obsolete
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]
