"""What a permitted name resolves to: `control.ports.Resolver` for this node.

This is the only look-up that ever leaves the node for an agent, and it happens after the rules have said yes. Order:
the operator's static hosts, an address literal, then the configured DNS server or the system's resolver. Answers are
kept for a short while and asked for once however many requests wait; every failure is bounded in time. Addresses are
not judged here (`core.addresses` does that on every request), and are taken in any spelling (`::ffff:127.0.0.1`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from remit.core import names
from remit.core.errors import Invalid, Unavailable
from remit.core.names import Address
from remit.node.own_addresses import OwnAddresses

TIMEOUT_S = 0.8
"""Under the second that Envoy gives a whole check."""
TTL_MAX_S = 30.0
TTL_MIN_S = 1.0
TTL_NEGATIVE_S = 5.0
CACHE_MAX = 8192
THREADS = 32
PER_ZONE = 6
"""Threads that names below one domain may take: libc asks servers that do not answer for many seconds, long after
whoever wanted to know was told so."""
HOSTS_FILE = Path("/etc/hosts")
ADDRESSES_MAX = 16
HINT = "check the node's DNS (setting resolver); `remit doctor`"


class Source(Protocol):
    """Where names are looked up. Raises `Unavailable` where nobody could say."""

    async def look_up(self, name: str) -> tuple[tuple[Address, ...], float]:
        """(addresses, how many seconds they may be kept); no addresses where the name does not exist."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    addresses: tuple[Address, ...]
    until: float


class Resolver:
    """`static`: names with a fixed address, which also covers a name that would resolve. `monotonic`: seconds."""

    def __init__(self, source: Source, static: Mapping[str, str], monotonic: Callable[[], float]) -> None:
        self._source = source
        self._static = {_host(name): (_address(name, text),) for name, text in static.items()}
        self._monotonic = monotonic
        self.own = OwnAddresses(monotonic)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._asked: dict[str, asyncio.Task[tuple[Address, ...]]] = {}

    async def addresses(self, host: str) -> tuple[Address, ...]:
        """Every address of a canonical name, preferred first. Raises `Unavailable` where nobody could say."""
        if fixed := self.fixed(host):
            return fixed
        kept = self._kept.get(host)
        if kept is not None and kept.until > self._monotonic():
            return kept.addresses
        task = self._asked.get(host)
        if task is None:
            task = asyncio.ensure_future(self._look_up(host))
            self._asked[host] = task
            task.add_done_callback(lambda done: self._answered(host, done))
        return await asyncio.shield(task)  # one waiter that gives up must not take the answer from the others

    def fixed(self, host: str) -> tuple[Address, ...]:
        """The address of a host whose address nobody has to be asked for; else none."""
        fixed = self._static.get(host)
        if fixed is not None:
            return fixed
        literal = names.address_literal(host)
        return (literal,) if literal is not None else ()

    async def _look_up(self, host: str) -> tuple[Address, ...]:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found, ttl_s = await self._source.look_up(host)
        except TimeoutError as error:
            raise Unavailable(f"looking up {host} took longer than {TIMEOUT_S:g} s", hint=HINT) from error
        keep_s = min(max(ttl_s, TTL_MIN_S), TTL_MAX_S) if found else TTL_NEGATIVE_S
        self._kept[host] = _Kept(addresses=found[:ADDRESSES_MAX], until=self._monotonic() + keep_s)
        self._kept.move_to_end(host)
        while len(self._kept) > CACHE_MAX:
            self._kept.popitem(last=False)
        return found[:ADDRESSES_MAX]

    def _answered(self, host: str, done: asyncio.Task[tuple[Address, ...]]) -> None:
        self._asked.pop(host, None)
        if not done.cancelled():
            done.exception()  # seen: a failure whose waiters have all gone is not an unhandled one


class Server:
    """A DNS server that the operator names ("address" or "address:port"), asked over UDP and, if need be, TCP."""

    def __init__(self, where: str) -> None:
        split = names.split_authority(where, 53)
        if split is None or names.address_literal(split[0]) is None:
            raise Invalid(f"setting resolver: {where!r} is not an address or address:port", hint="example: 10.0.0.2:53")
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._resolver.nameservers = [split[0]]
        self._resolver.port = split[1]
        self._resolver.lifetime = TIMEOUT_S
        self._resolver.timeout = TIMEOUT_S / 2

    async def look_up(self, name: str) -> tuple[tuple[Address, ...], float]:
        """A and AAAA at once; one of them failing is a failure, so that no address is left unscreened."""
        four, six = await asyncio.gather(self._ask(name, dns.rdatatype.A), self._ask(name, dns.rdatatype.AAAA))
        return four[0] + six[0], min(four[1], six[1])

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType) -> tuple[tuple[Address, ...], float]:
        try:
            answer = await self._resolver.resolve(f"{name}.", kind, search=False, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return (), TTL_MAX_S
        except (dns.exception.DNSException, OSError) as error:
            raise Unavailable(f"looking up {name}: {type(error).__name__}", hint=HINT) from error
        if answer.rrset is None:
            return (), TTL_MAX_S
        return tuple(ipaddress.ip_address(record.address) for record in answer.rrset), float(answer.rrset.ttl)


class System:
    """`/etc/hosts`, then the system's own resolver, in a few threads.

    Names are asked for with a final dot: a search domain would turn a name that does not exist into another one. libc
    does not find such a name in `/etc/hosts`, so that file is read here. A task that may reach any name below a domain
    whose servers do not answer makes the names below that domain wait, and no others.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="resolver")
        self._turns: dict[str, asyncio.Semaphore] = {}
        """By domain; as many as capabilities have."""

    async def look_up(self, name: str) -> tuple[tuple[Address, ...], float]:
        zone = ".".join(name.split(".")[-2:])
        turn = self._turns.setdefault(zone, asyncio.Semaphore(PER_ZONE))
        await turn.acquire()
        asked, loop = self._pool.submit(_getaddrinfo, name), asyncio.get_running_loop()
        asked.add_done_callback(lambda _: _soon(loop, turn.release))  # the thread's end, however long anybody waited
        try:
            found = await asyncio.wrap_future(asked)
        except socket.gaierror as error:
            if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
                return (), TTL_NEGATIVE_S
            raise Unavailable(f"looking up {name}: {error.strerror}", hint=HINT) from error
        return found, TTL_MAX_S

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(call)


def _getaddrinfo(name: str) -> tuple[Address, ...]:
    listed = hosts_file(name, HOSTS_FILE.read_text(errors="replace") if HOSTS_FILE.exists() else "")
    if listed:
        return listed
    found = socket.getaddrinfo(f"{name}.", None, type=socket.SOCK_STREAM)
    texts = dict.fromkeys(str(entry[4][0]) for entry in found)
    return tuple(ipaddress.ip_address(text) for text in texts if "%" not in text)


def hosts_file(name: str, text: str) -> tuple[Address, ...]:
    """The addresses that the text of a hosts(5) file gives for `name`; lines that are none are passed over."""
    found: dict[Address, None] = {}
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        address = names.address_literal(fields[0]) if fields else None
        if address is not None and name in (field.lower() for field in fields[1:]):
            found[address] = None
    return tuple(found)


def _address(name: str, text: str) -> Address:
    address = names.address_literal(text)
    if address is None:
        raise Invalid(f"the address of {name} is not valid: {text!r}", hint="write it as 192.0.2.1 or 2001:db8::1")
    return address


def _host(name: str) -> str:
    canonical = names.canonical(name)
    if canonical is None:
        raise Invalid(f"static host {name!r} is not a canonical name", hint="write it in lower case, without a port")
    return canonical
