"""The log of a real node: carried elsewhere whole, shortened by what is elsewhere, and nothing lost of what counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asked
import pytest
from instance import Instance, wait_for
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("audit-retention")

COUNTED = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: counted}
spec: {capabilities: [free], budgets: [{requests: 1000}]}
"""
REQUESTS = 150


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Upstreams:
    return Upstreams(tmp_path_factory.mktemp("upstreams"))


@pytest.fixture(scope="module")
def remit(upstreams: Upstreams) -> Iterator[Instance]:
    with asked.asked(upstreams, REMIT_AUDIT_SEGMENT_BYTES="32768") as instance:
        instance.apply(COUNTED)
        yield instance


def used(remit: Instance) -> list[Any]:
    shown = [json.loads(line) for line in remit.cli("budget", "show", "--json").stdout.splitlines()]
    return [(one["budget"], one["used"]) for one in shown if one["used"]]


def requests(remit: Instance, upstreams: Upstreams, count: int) -> None:
    with asked.agent(remit, upstreams, "counted") as agent:
        for number in range(count):
            assert agent.ask(f"/v1/{number}").status == 200


def exported(remit: Instance, out: Path, *options: str) -> dict[str, Any]:
    return dict(json.loads(remit.cli("audit", "export", "--out", str(out), "--json", *options).stdout))


def test_a_log_is_exported_whole_and_shortened_and_nothing_else_is_lost(
    remit: Instance, upstreams: Upstreams, tmp_path: Path
) -> None:
    requests(remit, upstreams, REQUESTS)
    whole = tmp_path / "whole.jsonl"
    told = exported(remit, whole, "--whole")
    lines = whole.read_bytes().splitlines()
    assert (told["records"], told["unbroken"], told["first"]["seq"]) == (len(lines), True, 1)
    assert hashlib.sha256(lines[-1]).hexdigest() == told["last"]["hash"]

    parts = tmp_path / "roles.jsonl"
    assert exported(remit, parts, "--role", "counted", "--kind", "decision")["records"] == REQUESTS
    refused = remit.cli("audit", "retire", str(parts), check=False)
    assert (refused.returncode, "no whole export" in refused.stderr) == (5, True), refused.stderr
    before = used(remit)
    young = remit.cli("audit", "retire", str(whole), "--keep", "1d", check=False)
    assert (young.returncode, "old enough" in young.stderr) == (4, True), young.stderr

    done = json.loads(remit.cli("audit", "retire", str(whole), "--json").stdout)
    assert 0 < done["seq"] <= told["last"]["seq"]
    verified = json.loads(remit.cli("audit", "verify", "--json").stdout)
    assert (verified["ok"], verified["retired"]) == (True, done["seq"]), verified
    shown = remit.audit()
    assert (shown[-1]["action"], shown[-1]["through"], shown[-1]["through_hash"]) == (
        "audit.retire", done["seq"], done["hash"],
    )  # fmt: skip
    assert shown[0]["seq"] > done["seq"]
    assert hashlib.sha256(lines[done["seq"] - 1]).hexdigest() == done["hash"], "the export has what went"
    again = remit.cli("audit", "retire", str(whole), check=False)
    assert (again.returncode, again.stdout) == (4, "")

    remit.cli("down")
    remit.up()
    assert used(remit) == before, "budgets are added up from what stayed"
    requests(remit, upstreams, 20)
    assert json.loads(remit.cli("audit", "verify", "--json").stdout)["ok"]
    assert exported(remit, tmp_path / "rest.jsonl", "--whole")["first"]["seq"] == done["seq"] + 1


def test_what_was_acknowledged_leaves_the_log_by_itself_and_nothing_else_does(
    remit: Instance, upstreams: Upstreams, tmp_path: Path
) -> None:
    remit.cli("down")
    remit.environment["REMIT_AUDIT_KEEP_BYTES"] = "65536"
    remit.up()
    requests(remit, upstreams, REQUESTS)
    told = json.loads(remit.cli("audit", "retention", "--json").stdout)
    assert told == {"keep_s": None, "keep_bytes": 65536, "acknowledged": None}

    whole = tmp_path / "whole.jsonl"
    exported = json.loads(remit.cli("audit", "export", "--whole", "--out", str(whole), "--json").stdout)
    requests(remit, upstreams, REQUESTS)
    retired = remit.audit(kind="operator")
    before = used(remit)
    acknowledged = json.loads(remit.cli("audit", "acknowledge", str(whole), "--json").stdout)
    assert acknowledged["last"] == exported["last"]["seq"]
    again = remit.cli("audit", "acknowledge", str(whole), check=False)
    assert (again.returncode, "are acknowledged already" in again.stderr) == (5, True)

    def gone() -> list[dict[str, Any]]:
        known = {one["id"] for one in retired}
        return [
            one for one in remit.audit(kind="operator") if one["action"] == "audit.retire" and one["id"] not in known
        ]

    (record,) = wait_for(gone, "a retirement by itself", 120)
    assert record["operator"] == "remit"
    assert record["export_sha256"] == exported["sha256"]
    assert acknowledged["record"] in record["detail"]
    assert record["through"] <= exported["last"]["seq"], "what no export has stays, however large the log is"
    lines = {json.loads(line)["seq"]: line for line in whole.read_bytes().splitlines()}
    assert hashlib.sha256(lines[record["through"]]).hexdigest() == record["through_hash"]
    verified = json.loads(remit.cli("audit", "verify", "--json").stdout)
    assert (verified["ok"], verified["retired"]) == (True, record["through"]), verified
    assert used(remit) == before
    assert remit.audit()[0]["seq"] > record["through"]
