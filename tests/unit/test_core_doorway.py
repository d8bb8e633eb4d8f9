"""The name by which tasks ask for tasks: only who delegates may use it, and nothing else covers it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from remit.core import addresses, decision, doorway, flow, names, observe, request
from remit.core.claims import Claims
from remit.core.decision import Candidate
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence, Request
from remit.core.snapshot import Rules, Snapshot
from remit.core.task import State, Task
from remit.policy import compile as compiler
from remit.policy import manifests

TASK = Task(id="t-aaaaaaaaaa", role="r", state=State.RUNNING, cell=1, created=datetime(2026, 1, 1, tzinfo=UTC))
CLAIMS = Claims(trust_domain="d", role="r", task=TASK.id, jti="j", issued=0, expires=1)


def known(**spec: object) -> Snapshot:
    raw = {"apiVersion": "remit.dev/v1alpha1", "kind": "Role", "metadata": {"name": "r"}, "spec": spec}
    rules: Rules = compiler.rules(manifests.lenient([raw]))
    return Snapshot(rules=rules, tasks={TASK.id: TASK})


def asked(*, method: str = "POST", host: str = doorway.HOST, target: str = doorway.PATH, tls: bool = False) -> Request:
    source, port = f"{flow.source(1)[0]}:1024", 443 if tls else 80
    found = request.read(
        Evidence(
            token=b"", peer=source, direct_peer=source, destination=f"{flow.virtual(host)[0]}:{port}",
            sni=host if tls else "", tls=tls, method=method, authority=host, target=target, headers={},
        )
    )  # fmt: skip
    assert isinstance(found, Request)
    return found


def test_who_delegates_may_ask() -> None:
    found = decision.admit(known(delegates=["other"]), CLAIMS, asked())
    assert isinstance(found, Candidate)
    assert found.capability is doorway.CAPABILITY, "by identity: this is how the decision knows"


@pytest.mark.parametrize("spec", [{}, {"mode": "observe"}, {"approvals": {"uncovered": "ask"}}])
def test_who_does_not_delegate_may_not_ask_not_even_a_human(spec: dict[str, object]) -> None:
    snapshot = known(**spec)
    found = decision.admit(snapshot, CLAIMS, asked())
    assert isinstance(found, Refusal)
    assert (found.reason, found.detail) == (Reason.NO_CAPABILITY, "role r delegates to no role (spec.delegates)")
    assert observe.uncovered(snapshot, CLAIMS, asked(), found) is None


@pytest.mark.parametrize(
    "request_", [asked(method="GET"), asked(target="/v1/tasks/x"), asked(target="/"), asked(tls=True), asked(host="x.remit.alt")]
)  # fmt: skip
def test_only_that_one_request_is_covered(request_: Request) -> None:
    for spec in ({"delegates": ["other"]}, {"delegates": ["other"], "approvals": {"uncovered": "ask"}}):
        found = decision.admit(known(**spec), CLAIMS, request_)
        assert isinstance(found, Refusal)
        assert found.reason is Reason.NO_CAPABILITY


@pytest.mark.parametrize("host", ["delegate.remit.alt", "*.remit.alt", "remit.alt", "*.alt", "api.alt"])
def test_no_manifest_names_it(host: str) -> None:
    raw = {
        "apiVersion": "remit.dev/v1alpha1", "kind": "Capability", "metadata": {"name": "c"},
        "spec": {"protocol": "http", "hosts": [host]},
    }  # fmt: skip
    rules = compiler.rules(manifests.lenient([raw]))
    assert rules.capabilities["c"].invalid is not None
    assert rules.capabilities["c"].hosts == ()


def test_its_address_is_nobodys() -> None:
    address = names.address_literal(doorway.ADDRESS)
    assert address is not None
    assert addresses.refusal(address, doorway.CAPABILITY.addresses) is None
    assert addresses.refusal(address) is not None
