"""Permits as the decision makes them, for the tests of what a permit opens."""

from datetime import UTC, datetime
from ipaddress import ip_address

from remit.core.capability import Capability, Protocol
from remit.core.claims import Claims
from remit.core.credential import Credential, Injection, Seen
from remit.core.decision import Candidate, Opinion, Permit
from remit.core.injections.header import HeaderInjection
from remit.core.request import Request
from remit.core.snapshot import Role
from remit.core.task import State, Task

SEEN = Seen(now=datetime(2026, 1, 1, tzinfo=UTC))
BEARER = HeaderInjection(header="authorization", template="Bearer {secret}")


def credential(injection: Injection = BEARER, *, secret: str = "github", name: str = "github-token") -> Credential:
    return Credential(name=name, secret=secret, injection=injection, hosts=("api.github.com",))


def asked(target: str = "/", *, host: str = "api.github.com", method: str = "GET", **headers: str) -> Request:
    path, _, query = target.partition("?")
    return Request(
        method=method, protocol=Protocol.HTTPS, host=host, port=443, path=path, query=query, target=target,
        websocket=False, flow="100.64.0.1:1024", cell=1, headers={k.replace("_", "-"): v for k, v in headers.items()},
    )  # fmt: skip


def permit(wanted: Credential | None, host: str = "api.github.com") -> Permit:
    task = Task(id="t-aaaaaaaaaa", role="devops", state=State.RUNNING, cell=1, created=datetime(2026, 1, 1, tzinfo=UTC))
    candidate = Candidate(
        claims=Claims(trust_domain="remit.local", role="devops", task=task.id, jti="j", issued=0, expires=1),
        task=task,
        role=Role(name="devops"),
        request=asked(host=host),
        capability=Capability(name="github", hosts=(host,)),
        credential=wanted,
    )
    return Permit(candidate=candidate, address=ip_address("140.82.121.6"), opinion=Opinion())
