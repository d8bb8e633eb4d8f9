"""What the kernel lets Envoy's uid dial, whatever Envoy, or whoever has taken it over, tries.

The decision screens every address before it is dialled (`core.addresses`); this is the same rule once more, in
nftables, by code that shares nothing with it. Metadata services, link-local and multicast addresses are refused always;
the node's own addresses and special-use space except where a capability names the range, for its ports; everything
that is not TCP. The table belongs to one instance, since Envoy's uid does; only root can change it. What has
no socket (a reset that the kernel sends for others) has no uid and must not get into the chain: hence a jump on the
uid, not an accept of the others.
Not covered: without root there is no uid to tell Envoy by. A public address on a port that no capability names is the
decision's business alone.
"""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Iterable

from remit.core import addresses
from remit.core.addresses import Network
from remit.core.errors import Invalid, Unavailable

TIMEOUT_S = 10.0
OPENED_MAX = 16_384
_TABLE = """
table inet {name}
delete table inet {name}
table inet {name} {{
  set never4 {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {never4} }} }}
  set never6 {{ type ipv6_addr; flags interval; auto-merge; elements = {{ {never6} }} }}
  set special4 {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {special4} }} }}
  set open4 {{ type ipv4_addr . inet_service; flags interval; }}
  set open6 {{ type ipv6_addr . inet_service; flags interval; }}
  chain out {{
    type filter hook output priority filter; policy accept;
    meta skuid {user} jump envoy
  }}
  chain envoy {{
    meta l4proto != tcp counter reject with icmpx admin-prohibited
    ip daddr @never4 counter reject with tcp reset
    ip6 daddr @never6 counter reject with tcp reset
    fib daddr type {{ broadcast, multicast, anycast }} counter reject with tcp reset
    {control}
    ip daddr . tcp dport @open4 accept
    ip6 daddr . tcp dport @open6 accept
    fib daddr type local counter reject with tcp reset
    ip daddr @special4 counter reject with tcp reset
    ip6 daddr != {unicast6} counter reject with tcp reset
  }}
}}
"""


def load(name: str, user: int, *, control_port: int) -> None:
    """Make the table `name` of Envoy's uid `user`, with nothing opened. `control_port`: of the API on loopback, or 0.

    `Unavailable` where this kernel cannot.
    """
    never4, never6 = _texts(addresses.NEVER)
    special4, _ = _texts(addresses.SPECIAL)
    control = f"fib daddr type local tcp dport {control_port} counter reject with tcp reset" if control_port else ""
    _nft(
        _TABLE.format(
            name=name,
            user=user,
            never4=", ".join(never4),
            never6=", ".join(never6),
            special4=", ".join(special4),
            control=control,
            unicast6=addresses.UNICAST6,
        )
    )


def remove(name: str) -> None:
    """The table and everything in it; nothing where there is none."""
    _nft(f"table inet {name}\ndelete table inet {name}\n")


def opened(name: str, ranges: Iterable[tuple[str, int]]) -> None:
    """From now on exactly these (range, port) of special-use space and of the node itself can be dialled.

    `Invalid` for what is none, or too many; `Unavailable` where the kernel refuses. Either changes nothing.
    """
    lines = [f"flush set inet {name} open4", f"flush set inet {name} open6"]
    for (version, port), networks in _grouped(ranges).items():
        for network in ipaddress.collapse_addresses(networks):  # type: ignore[type-var]
            lines.append(f"add element inet {name} open{version} {{ {network} . {port} }}")
    _nft("\n".join(lines) + "\n")


def _grouped(ranges: Iterable[tuple[str, int]]) -> dict[tuple[int, int], list[Network]]:
    found: dict[tuple[int, int], list[Network]] = {}
    for count, (text, port) in enumerate(ranges):
        if count >= OPENED_MAX:
            raise Invalid(f"more than {OPENED_MAX} address ranges and ports", hint="name wider ranges or fewer ports")
        try:
            network: Network = ipaddress.ip_network(text)
        except ValueError as error:
            raise Invalid(f"{text[:64]!a} is no address range") from error
        if not 0 < port < 65536:
            raise Invalid(f"{port} is no port")
        network = addresses.on_the_wire(network)
        found.setdefault((network.version, port), []).append(network)
    return found


def _texts(networks: Iterable[Network]) -> tuple[list[str], list[str]]:
    four = [str(network) for network in networks if network.version == 4]
    six = [str(network) for network in networks if network.version == 6]
    return four, six


def _nft(text: str) -> None:
    try:
        done = subprocess.run(
            ["nft", "-f", "-"], input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"nft: {error}", hint="apt-get install nftables; remit doctor") from error
    if done.returncode:
        why = done.stderr.strip().splitlines()[0][:200] if done.stderr.strip() else f"code {done.returncode}"
        raise Unavailable(
            f"the rules that fence Envoy in cannot be loaded: {why}",
            hint="the kernel needs nf_tables with fib and sets of intervals; in a container, CAP_NET_ADMIN",
        )
