"""A cell's network: a namespace with no device but loopback, where every address is local and leads to the forwarder.

There is no wire, so there is no route out, no gateway to attack and no uid exemption to steal: every TCP connection
(IPv4, IPv6) is redirected to a listener that was opened inside the namespace and is answered outside of it; DNS goes
to the node's own answerer; everything else is refused. A socket stays in the namespace where it was made, so the
descriptors are all that the outside needs. A dead forwarder is a connection that nobody answers.
Lives as long as the descriptors here or a process in it; no name in the file system, so nothing can be left behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from remit.cell import kernel
from remit.core.errors import Unavailable

TCP_PORT, DNS_PORT = 15001, 15053
RESOLVER = "10.201.0.53"
"""What resolv.conf in a cell names: not loopback, which some resolvers treat as a local cache."""
_BACKLOG = 1024
_TOOL_TIMEOUT_S = 10.0

ADDRESSES = """\
link set lo up
addr add 10.201.0.2/32 dev lo
addr add fd00:201::2/128 dev lo nodad
route add default dev lo src 10.201.0.2
route add ::/0 dev lo src fd00:201::2 metric 10
"""
"""`ip -batch` commands. `::/0` rather than `default`: one batch then holds both families."""

RULES = f"""\
table inet cell {{
  chain nat_out {{
    type nat hook output priority -100; policy accept;
    ip daddr {{ 127.0.0.0/8, 10.201.0.2 }} return
    ip6 daddr {{ ::1, fd00:201::2 }} return
    meta l4proto {{ tcp, udp }} th dport 53 redirect to :{DNS_PORT}
    meta l4proto tcp redirect to :{TCP_PORT}
  }}
  chain out {{
    type filter hook output priority filter; policy drop;
    ct state invalid drop
    meta l4proto != {{ tcp, udp }} reject with icmpx admin-prohibited
    tcp dport {{ {TCP_PORT}, {DNS_PORT} }} ct status & dnat == 0 reject with tcp reset
    udp dport {DNS_PORT} ct status & dnat == 0 drop
    ct state new ct count over 4096 reject with icmpx admin-prohibited
    oifname "lo" ip daddr {{ 127.0.0.0/8, 10.201.0.2 }} accept
    oifname "lo" ip6 daddr {{ ::1, fd00:201::2 }} accept
    counter reject with icmpx admin-prohibited
  }}
  chain in {{ type filter hook input priority filter; policy drop; iifname "lo" accept; }}
  chain forw {{ type filter hook forward priority filter; policy drop; }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """`namespace`: descriptor of it. `listeners`: tcp4, tcp6, dns_udp4, dns_udp6, dns_tcp4, dns_tcp6."""

    namespace: int
    listeners: tuple[socket.socket, ...]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.namespace)
        for sock in self.listeners:
            sock.close()


def create() -> Network:
    """A new network, ready. `Unavailable`: the kernel or a tool refused; nothing is left.

    Made by a thread of its own: a network namespace belongs to a thread, and this one ends with it, so that no other
    code ever runs inside. Blocks for some 10 ms.
    """
    made: list[Network] = []
    problems: list[Exception] = []

    def work() -> None:
        try:
            kernel.unshare(kernel.CLONE_NEWNET)
            made.append(_furnish())
        except Exception as error:
            problems.append(error)

    thread = threading.Thread(target=work, name="cell-network")
    thread.start()
    thread.join()
    if problems:
        raise Unavailable(f"no network for the cell: {problems[0]}", hint="remit doctor") from problems[0]
    return made[0]


def _furnish() -> Network:
    with contextlib.ExitStack() as undo:
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, namespace)
        _tool(["ip", "-batch", "-"], ADDRESSES)
        _tool(["nft", "-f", "-"], RULES)
        listeners = []
        for sock in _listeners():
            undo.callback(sock.close)
            listeners.append(sock)
        undo.pop_all()
        return Network(namespace=namespace, listeners=tuple(listeners))


def _listeners() -> Iterator[socket.socket]:
    kinds = (
        (socket.SOCK_STREAM, TCP_PORT),
        (socket.SOCK_DGRAM, DNS_PORT),
        (socket.SOCK_STREAM, DNS_PORT),
    )
    for kind, port in kinds:
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            sock = socket.socket(family, kind)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
            if kind == socket.SOCK_STREAM:
                sock.listen(_BACKLOG)
            sock.setblocking(False)
            yield sock


def _tool(argv: list[str], text: str) -> None:
    try:
        done = subprocess.run(argv, input=text.encode(), capture_output=True, timeout=_TOOL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{argv[0]}: {error}", hint="install iproute2 and nftables; remit doctor") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[:400]
        raise Unavailable(f"{argv[0]} ended with {done.returncode}: {said}", hint="remit doctor")
