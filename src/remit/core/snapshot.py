"""What a node knows: everything that a decision needs, immutable, replaced as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from remit.core.budget import Budget
from remit.core.capability import Capability, Index, Match
from remit.core.credential import Credential
from remit.core.grant import Grant
from remit.core.request import Request
from remit.core.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one cell. None means no limit. Sizes in bytes, CPU in cores, time in seconds."""

    memory_bytes: int | None = 2 << 30
    processes: int | None = 512
    cpu_cores: float | None = None
    time_s: float | None = None
    disk_bytes: int = 1 << 30
    """Size of the cell's home and of its /tmp, each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    name: str
    capabilities: tuple[Capability, ...] = ()
    policies: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    budgets: tuple[Budget, ...] = ()
    invalid: str | None = None
    ask_uncovered: bool = False
    """A human is asked about what no capability covers."""
    observe: bool = False
    """What its rules refuse is let pass and written down (`core.observe`)."""
    four_eyes: bool = False
    """Whoever started a task does not answer its approvals."""
    delegates: frozenset[str] = frozenset()
    """Roles that its tasks may start tasks under (`core.delegation`)."""
    own: frozenset[str] | None = None
    """Of its capabilities, those that its tasks may use themselves; the others they hand on. None: all."""
    max_depth: int = 1
    """How many levels of tasks there may be below one of its."""
    index: Index = field(default_factory=lambda: Index(()), compare=False)

    def match(self, request: Request, *, only: frozenset[str] | None) -> Match:
        """The first of its capabilities that covers `request`, of those in `only` (None: of all)."""
        return self.index.match(
            protocol=request.protocol,
            host=request.host,
            port=request.port,
            method=request.method,
            path=request.path,
            websocket=request.websocket,
            only=only,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`invalid`: why the module cannot be used; a decision that needs it is then a denial."""

    name: str
    module: str
    package: str
    everywhere: bool = False
    invalid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the manifests say, compiled. `digest` names their content."""

    digest: str = ""
    roles: Mapping[str, Role] = field(default_factory=dict)
    capabilities: Mapping[str, Capability] = field(default_factory=dict)
    credentials: Mapping[str, Credential] = field(default_factory=dict)
    policies: Mapping[str, Policy] = field(default_factory=dict)

    def presenting(self, secret: str) -> tuple[str, ...]:
        """The names of the credentials that present the stored `secret`, in order."""
        return tuple(sorted(one.name for one in self.credentials.values() if one.secret == secret))


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    capabilities: frozenset[str] = frozenset()
    credentials: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    everything: bool = False
    """`remit panic`: nobody has any authority until it is lifted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`version` is a content hash; `epoch` grows with every change, so that an older one is never put back.

    `keys`: raw Ed25519 public keys of the issuer by key id. `sealed`: sealed secrets by name (opaque bytes).
    `expires`: when those of them end that do.
    `grants`: what humans allowed, by task.
    """

    version: str = ""
    epoch: int = 0
    rules: Rules = Rules()
    tasks: Mapping[str, Task] = field(default_factory=dict)
    revoked: Revoked = Revoked()
    keys: Mapping[str, bytes] = field(default_factory=dict)
    sealed: Mapping[str, bytes] = field(default_factory=dict)
    expires: Mapping[str, datetime] = field(default_factory=dict)
    grants: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)

    def task_in(self, cell: int | None) -> Task | None:
        """The task in a cell; of several that had it one after the other, the newest."""
        tasks = [task for task in self.tasks.values() if task.cell == cell]
        return max(tasks, key=lambda task: task.created, default=None)
