"""The packs in policies/: their tables hold, they miss nothing of their pack, and all packs can be in force at once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from remit.cli import manifests
from remit.policy import cases, crosscheck

ROOT = Path(__file__).parents[2]
PACKS = sorted(path.parent for path in (ROOT / "policies").glob("*/tests"))


@pytest.fixture(scope="module")
def outcomes() -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "remit.cli.main", "policy", "test", "policies", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_there_are_the_packs_that_the_documentation_names() -> None:
    assert [path.name for path in PACKS] == ["devops", "finops", "notifier", "secops"]


def test_every_case_is_decided_as_expected(outcomes: list[dict[str, Any]]) -> None:
    assert len(outcomes) > 80
    assert [one for one in outcomes if not one["ok"]] == []


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.name)
def test_every_capability_and_credential_is_used_and_every_policy_objects(
    outcomes: list[dict[str, Any]], pack: Path
) -> None:
    """A capability that no case needs is one too many; a policy that never objects may as well be broken."""
    own = [one for one in outcomes if Path(one["file"]).parts[1] == pack.name]
    documents = manifests.read([str(pack)])
    for document in documents:
        if document.kind == "Capability":
            assert any(o["decision"] == "permit" and o["capability"] == document.name for o in own), document.name
        if document.kind == "Credential":
            assert any(o["decision"] == "permit" and o["credential"] == document.name for o in own), document.name
        if document.kind == "Policy":
            asked = ("policy_denied", "approval_required")
            objecting = [o for o in own if o["reason"] in asked and f"{document.name}: " in o["detail"]]
            assert objecting, document.name


@pytest.mark.parametrize(
    ("service", "region", "host"),
    [
        ("cloudtrail", "eu-central-1", "cloudtrail.eu-central-1.amazonaws.com"),
        ("guardduty", "eu-central-1", "guardduty.eu-central-1.amazonaws.com"),
        ("ecs", "eu-central-1", "ecs.eu-central-1.amazonaws.com"),
        ("ce", "eu-central-1", "ce.us-east-1.amazonaws.com"),
    ],
)
def test_what_the_packs_expect_of_aws_is_what_its_sdk_sends(service: str, region: str, host: str) -> None:
    client = pytest.importorskip("botocore.session").Session().create_client(service, region)
    assert client.meta.endpoint_url == f"https://{host}"
    prefix = client.meta.service_model.metadata.get("targetPrefix")
    sent = {f"{prefix}.{name}" for name in client.meta.service_model.operation_names}
    tables = [
        case
        for pack in PACKS
        for path in (pack / "tests").glob("*.yaml")
        for case in cases.parse(path.read_text(), path.name)
    ]
    permitted = [case for case in tables if case.permit and case.url.startswith(f"https://{host}/")]
    assert permitted
    for case in permitted:
        assert prefix is None or case.headers["X-Amz-Target"] in sent, case.sentence


def test_all_packs_can_be_in_force_at_once() -> None:
    documents = manifests.read([str(pack) for pack in PACKS])
    assert crosscheck.check(documents) == []
