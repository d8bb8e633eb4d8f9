"""A whole Remit under attack: real cells, upstreams that write down what arrives, and what the attackers may do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import agent_in_cell
import boundary_h2
import httpx
from governed import SECRET, manifests
from hostile import Hostile, Names
from instance import REMIT, Instance, wait_for
from upstreams import NAMES, Upstreams

ADDRESSES: dict[str, tuple[str, ...]] = {
    "meta": ("169.254.169.254",),
    "private": ("10.1.2.3",),
    "loopback": ("127.0.0.1",),
    "loopback6": ("::1",),
    "mapped": ("::ffff:127.0.0.1",),
    "mapped-meta": ("::ffff:169.254.169.254",),
    "nat64": ("64:ff9b::a9fe:a9fe",),
    "nat64-loopback": ("64:ff9b::7f00:1",),
    "sixtofour": ("2002:7f00:1::1",),
    "sixtofour-meta": ("2002:a9fe:a9fe::1",),
    "teredo": ("2001:0:4136:e378:8000:63bf:80ff:fffe",),
    "meta6": ("fd00:ec2::254",),
    "azure": ("168.63.129.16",),
    "alibaba": ("100.100.100.200",),
    "link6": ("fe80::1",),
    "multicast": ("224.0.0.1",),
    "broadcast": ("255.255.255.255",),
    "nowhere": ("0.0.0.0",),
    "nowhere6": ("::",),
    "shared": ("100.64.0.1",),
    "virtual": ("198.18.0.1",),
    "dead-and-meta": ("192.0.2.1", "169.254.169.254"),
    "good-and-bad": ("127.0.0.1", "10.1.2.3"),
    "good-and-bad6": ("127.0.0.1", "::1"),
    "unresolved": (),
}
"""`<name>.up.example` → its addresses; `anywhere` allows each where it can be allowed."""

SPECIAL = """
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: attacker}}
spec:
  capabilities: [api, api-plain, rpc, sockets, stream, basic, query, hostile, other, wild, special, literal, anywhere, wrong, rebind, down]
  policies: [careful]
  limits: {{processes: 200}}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: neighbour}}
spec: {{capabilities: [api, other, quiet]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: hostile}}
spec: {{hosts: [api.up.example], ports: [{hostile}], credential: key, addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: other}}
spec: {{hosts: [other.up.example], ports: [{hostile}], paths: [/open/**], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: quiet}}
spec: {{hosts: [quiet.up.example], ports: [{hostile}], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: wild}}
spec: {{hosts: ["*.wild.up.example"], ports: [{hostile}], paths: [/open/**], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: special}}
spec: {{hosts: [{special}], ports: [{hostile}]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: literal}}
spec: {{protocol: http, hosts: ["10.1.2.3", "fd00:201::2"], ports: [80]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: anywhere}}
spec: {{hosts: [{anywhere}], ports: [{hostile}], addresses: ["64:ff9b::/96", "2002::/16", "::ffff:0:0/96"]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: wrong}}
spec: {{hosts: [wrong.up.example], ports: [{hostile}], credential: key-wrong, addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: down}}
spec: {{hosts: [wrong.up.example], ports: [1], credential: key-wrong, addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: rebind}}
spec: {{hosts: [rebind.wild.up.example], ports: [{hostile}], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: key-wrong}}
spec: {{source: {{sealed: {{name: key}}}}, hosts: [wrong.up.example], inject: {{header: {{name: Authorization}}}}}}
"""

ANYWHERE = ("mapped-meta", "nat64", "sixtofour-meta")
"""Never dialled, although the capability allows the range; under `any-<name>.up.example`."""


class Attacker:
    """A process in a cell of its own that does what it is told (`agent_in_cell`)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the attacker's cell has gone: {self._process.stderr.read() if self._process.stderr else ''}"
        said = json.loads(line)
        assert "error" not in said, said.get("error")
        return said["result"]

    def do(self, source: str, **given: Any) -> Any:
        """`result` of a program, which finds `given` as variables."""
        self.start(source, **given)
        return self.finish()

    def start(self, source: str, **given: Any) -> None:
        """Begin a program; `finish` waits for it."""
        assert self._process.stdin is not None
        data = {name: value.decode("latin-1") for name, value in given.items() if isinstance(value, bytes)}
        values = {name: value for name, value in given.items() if not isinstance(value, bytes)}
        self._process.stdin.write(json.dumps({"source": source, "bytes": data, "values": values}) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Any:
        return self._read()

    def ask(self, host: str, port: int, data: bytes, **options: Any) -> dict[str, Any]:
        """One request, byte for byte, on a connection of its own."""
        answer: dict[str, Any] = self.do(
            "result = ask(host, port, data, **options)", host=host, port=port, data=data, options=options
        )
        return answer


class Whole:
    """The instance, what is around it, and two cells: `cell` of role attacker, `neighbour` of role neighbour."""

    def __init__(self, directory: Path) -> None:
        (directory / "hostile").mkdir()
        self.upstreams, self.hostile = Upstreams(directory), Hostile(directory / "hostile")
        table: dict[str, Any] = {f"{name}.up.example": found for name, found in ADDRESSES.items()}
        table |= {f"any-{name}.up.example": ADDRESSES[name] for name in ANYWHERE}
        table |= dict.fromkeys((*NAMES, "quiet.up.example", "wrong.up.example", "in.wild.up.example"), ("127.0.0.1",))
        self.names = Names(table)
        self.owed: Counter[str] = Counter()
        """Envoy's refusals, whose records come a moment later, by detail; `still_works` looks for them."""
        self.remit = Instance(hosts={}, ca=None)
        self.remit.environment["REMIT_RESOLVER"] = self.names.where
        self.remit.environment["REMIT_UPSTREAM_CA_FILES"] = f"{self.upstreams.ca},{self.hostile.ca}"

    def up(self) -> None:
        self.remit.up()
        special = SPECIAL.format(
            hostile=self.hostile.port,
            special=", ".join(f"{name}.up.example" for name in ADDRESSES),
            anywhere=", ".join(f"any-{name}.up.example" for name in ANYWHERE),
        )
        self.remit.apply(manifests(self.upstreams) + special)
        self.remit.secret("key", SECRET)
        transport = httpx.HTTPTransport(uds=str(self.remit.run_dir / "control/control.sock"))
        self.api = httpx.Client(transport=transport, base_url="http://localhost", timeout=20)

    def down(self) -> None:
        if hasattr(self, "api"):
            self.api.close()
        self.remit.down()

    @contextmanager
    def attacker(self, role: str) -> Iterator[Attacker]:
        """A further cell; it ends with the context."""
        source = f"import sys, types\nh2 = types.ModuleType('boundary_h2')\nexec({Path(boundary_h2.__file__).read_text()!r}, h2.__dict__)\nsys.modules['boundary_h2'] = h2\n"
        program = source + f"exec({Path(agent_in_cell.__file__).read_text()!r})\n"
        with subprocess.Popen(
            [str(REMIT), "run", "--role", role, "--no-tty", "--", sys.executable, "-c", program],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
            env=self.remit.environment,
        ) as process:  # fmt: skip
            try:
                yield Attacker(process)
            finally:
                process.terminate()

    @property
    def arrived(self) -> int:
        """Everything that any upstream has ever seen; compare before and after."""
        return len(self.upstreams.seen) + len(self.hostile.seen) + self.hostile.connections

    def audit(self, **filters: str) -> list[dict[str, Any]]:
        """`remit audit list --json`, without its process."""
        answer = self.api.get("/v1/audit", params={"limit": "1000", **filters})
        found: list[dict[str, Any]] = answer.raise_for_status().json()["records"]
        return found

    def record(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The record that a denial names, once it is there."""
        problem = json.loads(answer["body"])

        def look() -> dict[str, Any] | None:
            found = self.api.get(f"/v1/audit/{problem['record']}")
            return found.json()["record"] if found.status_code == 200 else None

        record: dict[str, Any] = wait_for(look, f"the record of {problem}")
        return record

    def refused(self, act: Callable[[], dict[str, Any]], *reasons: str) -> dict[str, Any]:
        """Do `act`; nothing arrived, and the record says what the denial says, which is one of `reasons`."""
        before = self.arrived
        answer = act()
        assert answer["status"] >= 400, answer
        problem = json.loads(answer["body"])
        assert problem["reason"] in reasons, problem
        assert self.arrived == before, "it arrived"
        return self.note(answer)

    def note(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The record of a denial, which says the same; Envoy's own come later, so they are only written down."""
        problem = json.loads(answer["body"])
        if problem["reason"] == "refused_by_boundary":
            self.owed[problem["detail"]] += 1
            return {}
        record = self.record(answer)
        assert (record["decision"], record["reason"]) == ("deny", problem["reason"]), record
        return record

    def still_works(self, cell: Attacker) -> None:
        """What Envoy refused by itself is recorded too, and an ordinary request of the cell reaches its upstream."""

        def unpaid() -> Counter[str]:
            return self.owed - Counter(str(one["detail"]) for one in self.remit.audit(kind="boundary", role="attacker"))

        wait_for(lambda: not unpaid(), f"records of {self.owed}")
        port = self.upstreams.https_port
        answer = cell.ask("api.up.example", port, request("api.up.example", port, "/v1/ordinary"))
        assert answer["status"] == 200, answer


def request(host: str, port: int, path: str = "/v1/x", *headers: str, method: str = "GET", body: str = "") -> bytes:
    """An HTTP/1.1 request; the port is always written."""
    length = (f"content-length: {len(body)}",) if body else ()
    lines = (f"{method} {path} HTTP/1.1", f"host: {host}:{port}", *headers, *length, "", body)
    return "\r\n".join(lines).encode("latin-1")
