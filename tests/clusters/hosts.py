"""Hosts that are network namespaces of this machine, joined by a bridge; needs Linux, root and the command `ip`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import socket
import subprocess
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Host:
    """A network namespace.

    Attributes:
        name: of the namespace; its cable at the bridge has the same name.
        address: its address.
    """

    name: str
    address: str

    def command(self, arguments: list[str]) -> list[str]:
        """Returns the command that runs another one on this host."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def unplug(self) -> None:
        """Takes the host off the network."""
        _ip("link", "set", self.name, "down")

    def plug(self) -> None:
        """Puts the host on the network."""
        _ip("link", "set", self.name, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def network(count: int, name: str = "reid", subnet: str = "10.77.0") -> Iterator[list[Host]]:
    """Makes hosts and takes them down at the end.

    Args:
        count: number of hosts.
        name: beginning of their names; networks of two names can stand side by side.
        subnet: the first three parts of their addresses.
    """
    assert os.geteuid() == 0, "expected root, which alone makes network namespaces; run it as root on Linux."
    bridge = f"{name}br"
    for old in (f"{name}{number}" for number in range(64)):  # of a run that was killed
        subprocess.run(["ip", "netns", "delete", old], capture_output=True, check=False)
    subprocess.run(["ip", "link", "delete", bridge], capture_output=True, check=False)
    hosts = [Host(f"{name}{number}", f"{subnet}.{number + 1}") for number in range(count)]
    with contextlib.ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "delete", bridge)
        _ip("link", "set", bridge, "up")
        for host in hosts:
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "delete", host.name)
            # `ip netns exec` puts these files over those of /etc: on each host the machine's name is its own address.
            own = pathlib.Path("/etc/netns") / host.name
            own.mkdir(parents=True, exist_ok=True)
            stack.callback(shutil.rmtree, own)
            (own / "hosts").write_text(f"127.0.0.1 localhost\n{host.address} {socket.gethostname()}\n")
            _ip("link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", host.name, "master", bridge, "up")
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield hosts
