"""A capability: what may be reached, and how. The index that finds the one that covers a request.

Hosts are looked up label by label in a trie, so the cost of a request does not grow with the number of capabilities;
methods and paths are tried only on those that share the host. No glob runs over text that an agent wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from remit.core import paths as path_rules
from remit.core.addresses import Network
from remit.core.budget import Budget


class Protocol(StrEnum):
    HTTPS = "https"
    HTTP = "http"
    TCP = "tcp"
    """Any bytes, unread."""
    TLS = "tls-passthrough"
    """TLS that is not intercepted: bound to the name in its handshake alone."""


UNREAD = frozenset({Protocol.TCP, Protocol.TLS})
"""What is carried without being read: no method, path or credential."""


class Approval(StrEnum):
    """Whether a human is asked before a request that a capability covers goes on."""

    NEVER = "never"
    ASK = "ask"
    ALWAYS_ASK = "always-ask"
    """Each request anew: no answer covers a second one."""


MAX_SHOWN = 6
MAX_SHOWN_CHARACTERS = 100
DEFAULT_PORT: Mapping[Protocol, int] = {Protocol.HTTPS: 443, Protocol.HTTP: 80, Protocol.TLS: 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """`methods` empty means any. `paths` are patterns as written; `ambiguous` the ambiguities opted in to."""

    name: str
    protocol: Protocol = Protocol.HTTPS
    hosts: tuple[str, ...] = ()
    ports: frozenset[int] = frozenset({443})
    methods: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ("/**",)
    credentials: tuple[str, ...] = ()
    """One, or several of which the request chooses by their placeholders (`core.choice`)."""
    addresses: tuple[Network, ...] = ()
    ambiguous: frozenset[path_rules.Ambiguity] = frozenset()
    websocket: bool = False
    approval: Approval = Approval.NEVER
    budgets: tuple[Budget, ...] = ()
    invalid: str | None = None
    """A broken manifest compiles to a capability that refuses, with this as its reason."""
    matchers: tuple[re.Pattern[str], ...] = field(default=(), compare=False)

    def covers_path(self, path: str) -> bool:
        return any(matcher.fullmatch(path) for matcher in self.matchers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """How far the best capability got: `capability` is set on a match; `near` says what would have been needed."""

    capability: Capability | None
    near: tuple[str, ...] = ()


@dataclass(slots=True)
class _Node:
    children: dict[str, _Node] = field(default_factory=dict)
    exact: list[Capability] = field(default_factory=list)
    below: list[Capability] = field(default_factory=list)


class Index:
    """The capabilities of one role, by host. Built once per snapshot; read-only afterwards."""

    __slots__ = ("_literal", "_root")

    def __init__(self, capabilities: Iterable[Capability]) -> None:
        self._root = _Node()
        self._literal: dict[str, list[Capability]] = {}
        for capability in capabilities:
            for host in capability.hosts:
                self._add(host, capability)

    def _add(self, host: str, capability: Capability) -> None:
        if ":" in host or host.rpartition(".")[2].isdigit():
            self._literal.setdefault(host, []).append(capability)
            return
        wildcard = host.startswith("*.")
        node = self._root
        for label in reversed(host.removeprefix("*.").split(".")):
            node = node.children.setdefault(label, _Node())
        (node.below if wildcard else node.exact).append(capability)

    def by_host(self, host: str) -> list[Capability]:
        """Every capability that names `host` (canonical), the most specific pattern first."""
        if host in self._literal:
            return self._literal[host]
        found: list[list[Capability]] = []
        node: _Node | None = self._root
        labels = host.split(".")
        for label in reversed(labels):
            if node is not None and node.below:
                found.append(node.below)
            node = node.children.get(label) if node is not None else None
            if node is None:
                break
        if node is not None and node.exact:
            found.append(node.exact)
        return [capability for group in reversed(found) for capability in group]

    def match(
        self,
        *,
        protocol: Protocol,
        host: str,
        port: int,
        method: str,
        path: str,
        websocket: bool,
        only: frozenset[str] | None = None,
    ) -> Match:
        """The first capability that covers the request; `path` is normalised (`core.paths.normal`).

        `only`: the names of those that count.
        """
        near: list[str] = []
        candidates = self.by_host(host)
        if not candidates:
            return Match(capability=None)
        found = path_rules.ambiguities(path)
        for capability in candidates:
            if only is not None and capability.name not in only:
                near.append(f"{capability.name}: was not given to this task")
                continue
            missing = _missing(capability, protocol, port, method, path, websocket, found)
            if missing is None:
                return Match(capability=capability)
            near.append(f"{capability.name}: {missing}")
        return Match(capability=None, near=tuple(near))


def _missing(
    capability: Capability,
    protocol: Protocol,
    port: int,
    method: str,
    path: str,
    websocket: bool,
    found: frozenset[path_rules.Ambiguity],
) -> str | None:
    if capability.invalid is not None:
        return f"is invalid: {capability.invalid}"
    if capability.protocol is not protocol:
        return f"is for {capability.protocol}, the request is {protocol}"
    if port not in capability.ports:
        return f"is for port {_listed(capability.ports)}, the request is for {port}"
    if protocol in UNREAD:
        return None
    if capability.methods and method not in capability.methods:
        return f"allows {_listed(capability.methods)}, not {method}"
    if websocket and not capability.websocket:
        return "does not allow WebSocket (spec.websocket: true would)"
    if not found <= capability.ambiguous:
        return f"does not opt in to {_listed(found - capability.ambiguous)} in paths"
    if not capability.covers_path(path):
        return f"allows paths {_listed(capability.paths)}"
    return None


def _listed(values: Iterable[object]) -> str:
    """The first few, so that a refusal stays readable whatever a manifest lists."""
    texts = sorted(str(value)[:MAX_SHOWN_CHARACTERS] for value in values)
    more = f" and {len(texts) - MAX_SHOWN} more" if len(texts) > MAX_SHOWN else ""
    return ", ".join(texts[:MAX_SHOWN]) + more
