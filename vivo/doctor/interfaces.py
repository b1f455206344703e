"""Network interfaces, and which of them this process's connections go through (Linux; elsewhere nothing is found)."""

import fcntl
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

_SIOCGIFADDR = 0x8915
_ESTABLISHED = "01"


def addresses() -> dict[str, str]:
    """IPv4 address of each interface that has one, by name."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an address
                continue
            found[name] = socket.inet_ntoa(answer[20:24])
    return found


def described() -> str:
    """The machine's interfaces in words, for advice."""
    return ", ".join(f"{name} ({address})" for name, address in addresses().items()) or "none with an IPv4 address"


def connected_through(not_ports: Iterable[int] = ()) -> list[str]:
    """Interfaces of this process's established TCP connections, sorted.

    Args:
        not_ports: connections from or to these ports do not count (the rendezvous of torch.distributed).
    """
    mine, ports = _own_sockets(), set(not_ports)
    by_address = {address: name for name, address in addresses().items()}
    found = set()
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(file).is_file():
            continue
        for line in Path(file).read_text().splitlines()[1:]:
            _, local, remote, state, *rest = line.split()
            if state != _ESTABLISHED or rest[5] not in mine:
                continue
            if {_port(local), _port(remote)} & ports:
                continue
            address = _address(local)
            found.add("lo" if address.is_loopback else by_address.get(str(address), str(address)))
    return sorted(found)


def _own_sockets() -> set[str]:
    """Inodes of the sockets that this process has open."""
    found = set()
    folder = Path("/proc/self/fd")
    for name in os.listdir(folder) if folder.is_dir() else ():
        try:
            target = os.readlink(folder / name)
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def _port(text: str) -> int:
    return int(text.rpartition(":")[2], 16)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The kernel's hexadecimal words, each in the machine's own byte order."""
    raw = bytes.fromhex(text.rpartition(":")[0])
    if sys.byteorder == "little":
        raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    address = ipaddress.ip_address(raw)
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
