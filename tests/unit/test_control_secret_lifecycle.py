"""Secrets have versions and ends; ends are told once, before and when they come; uses are read from the audit log."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from control_plane import Plane, build
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from remit.control import secret_use
from remit.core import expiry
from remit.core.errors import Conflict, Invalid, NotFound
from remit.core.expiry import Nearness

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CREDENTIAL = """
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {name: key}
spec:
  source: {sealed: {name: github}}
  hosts: [api.github.com]
  inject: {header: {name: Authorization, format: "Bearer {secret}"}}
"""


def jwt(**claims: object) -> bytes:
    parts = ({"alg": "none"}, claims)
    return b".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in parts) + b".sig"


def certificate(end: datetime) -> bytes:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(NOW - timedelta(days=1)).not_valid_after(end)
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.fixture
async def plane(tmp_path: Path) -> Plane:
    made = build(tmp_path)
    await made.services.manifests.apply([yaml.safe_load(CREDENTIAL)], operator="ann")
    return made


@pytest.mark.parametrize(
    ("value", "end"),
    [
        (jwt(exp=1_800_000_000), datetime.fromtimestamp(1_800_000_000, UTC)),
        (jwt(exp=1_800_000_000.5) + b"\n", datetime.fromtimestamp(1_800_000_000.5, UTC)),
        (jwt(exp=True), None),
        (jwt(exp="soon"), None),
        (jwt(exp=1e300), None),
        (jwt(exp=float("inf")), None),
        (jwt(iat=1), None),
        (b"eyJ.%%%.x", None),
        (b"ey.." + b"[" * 5000, None),
        (b"ghp_plain.with.dots", None),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None),
        (b"\xff\x00", None),
    ],
)
def test_the_end_that_a_secret_tells(value: bytes, end: datetime | None) -> None:
    assert expiry.told(value) == end


def test_of_several_certificates_the_first_end_counts() -> None:
    early, late = NOW + timedelta(days=2), NOW + timedelta(days=30)
    chain = certificate(late) + certificate(early)
    assert expiry.told(chain) == early
    assert expiry.told(json.dumps({"certificate": certificate(early).decode(), "private_key": "k"}).encode()) == early


async def test_a_new_version_replaces_and_the_node_gets_it(plane: Plane) -> None:
    secrets = plane.services.secrets
    first = await secrets.put("github", b"one", operator="ann")
    plane.clock.advance(60)
    second = await secrets.rotate("github", b"two", operator="bob")
    assert (first.version, second.version) == (1, 2)
    (stored,) = secrets.all()
    assert (stored.version, (stored.updated - stored.created).total_seconds()) == (2, 60)
    assert plane.node.snapshots[-1]["sealed"]["github"] == base64.b64encode(b"sealed:owt").decode()
    assert [fields["action"] for _, fields in plane.node.records[-2:]] == ["secret.put", "secret.rotate"]
    assert "two" not in str(plane.node.records)


async def test_what_is_not_there_is_not_rotated(plane: Plane) -> None:
    with pytest.raises(NotFound):
        await plane.services.secrets.rotate("github", b"x", operator="ann")
    assert plane.services.secrets.all() == []


async def test_the_earlier_end_counts_and_one_that_is_over_is_refused(plane: Plane) -> None:
    secrets, now = plane.services.secrets, plane.clock.now()
    value = jwt(exp=int(now.timestamp()) + 600)
    kept = await secrets.put("github", value, operator="ann", expires=secrets.end("90d"))
    assert kept.expires == now + timedelta(seconds=600)
    assert plane.node.snapshots[-1]["expires"] == {"github": kept.expires.isoformat()}
    kept = await secrets.put("github", value, operator="ann", expires=secrets.end("5m"))
    assert kept.expires == now + timedelta(seconds=300)
    with pytest.raises(Invalid, match="has expired already") as caught:
        await secrets.put("github", jwt(exp=1), operator="ann")
    assert "eyJ" not in str(caught.value)
    assert (await secrets.rotate("github", b"plain", operator="ann")).expires is None


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "-1d", "0d", "2026-02-30", "2027-01-01T00:00:00", "1d\x1b[2J", "9" * 50]
)
def test_what_is_no_end_is_refused_and_shown_safely(plane: Plane, text: str) -> None:
    with pytest.raises(Invalid, match="is no end") as caught:
        plane.services.secrets.end(text)
    assert "\x1b" not in str(caught.value)


async def test_each_stage_is_told_once_and_a_new_version_begins_anew(plane: Plane) -> None:
    secrets, look = plane.services.secrets, plane.services.expiring.look
    await secrets.put("github", b"x", operator="ann", expires=secrets.end("20d"))
    told = plane.told.endings
    await look()
    assert told == []
    for days, stage in ((7, Nearness.FORTNIGHT), (11, Nearness.DAYS), (1, Nearness.DAY), (1, Nearness.OVER)):
        plane.clock.advance(days * 86400)
        await look()
        await look()
        assert told[-1].nearness is stage
    assert [one.nearness for one in told] == [Nearness.FORTNIGHT, Nearness.DAYS, Nearness.DAY, Nearness.OVER]
    assert told[-1].credentials == ("key",)
    assert plane.node.records[-1][1]["action"] == "secret.expired"
    assert plane.services.status.read()["expiring"][0]["state"] == "expired"
    await secrets.rotate("github", b"y", operator="ann", expires=secrets.end("2d"))
    await look()
    assert (told[-1].version, told[-1].nearness) == (2, Nearness.DAYS)


async def test_an_end_that_cannot_be_recorded_is_told_later(plane: Plane) -> None:
    secrets = plane.services.secrets
    await secrets.put("github", b"x", operator="ann", expires=secrets.end("2d"))
    plane.node.connected = False
    await plane.services.expiring.look()
    assert plane.told.endings == []
    plane.node.connected = True
    await plane.services.expiring.look()
    assert len(plane.told.endings) == 1


async def test_a_secret_is_tried_by_the_node_for_each_credential(plane: Plane) -> None:
    secrets = plane.services.secrets
    await secrets.put("github", b"x", operator="ann")
    plane.node.probes["key"] = {"ok": False, "detail": "the secret is too short"}
    assert await secrets.test("github", operator="ann") == [
        {"credential": "key", "ok": False, "detail": "the secret is too short"}
    ]
    assert plane.node.records[-1][1]["detail"] == "secret github tried: not usable"
    assert await secrets.test("key", operator="ann")
    await secrets.put("lonely", b"x", operator="ann")
    with pytest.raises(Conflict, match="no credential uses secret lonely"):
        await secrets.test("lonely", operator="ann")
    with pytest.raises(NotFound):
        await secrets.test("../etc\x1b", operator="ann")


async def test_uses_are_permits_by_task_and_host(plane: Plane) -> None:
    rows = [
        ("permit", "t-a", "api.github.com", {}),
        ("deny", "t-a", "api.github.com", {}),
        ("permit", "t-a", "api.github.com", {}),
        ("permit", "t-a", "api.github.com", {"would_deny": "policy"}),
        ("permit", "t-b", "api.github.com", {}),
        ("permit", "t-b", "other", {"credential": "another"}),
    ]
    for seq, (decision, task, host, more) in enumerate(rows, 1):
        await plane.audit.add(
            {"id": f"r-{seq}", "seq": seq, "time": f"2026-01-01T00:00:0{seq}Z", "decision": decision, "task": task,
             "role": "r", "host": host, "credential": "key", **more}
        )  # fmt: skip
    found = await secret_use.usage(plane.audit, ["key"], None)
    assert [(u.task, u.count, u.first[-3:], u.last[-3:]) for u in found.uses] == [
        ("t-b", 1, "05Z", "05Z"),
        ("t-a", 2, "01Z", "03Z"),
    ]
    assert found.whole
    assert await secret_use.last(plane.audit, ["key"]) == "2026-01-01T00:00:05Z"
    assert await secret_use.last(plane.audit, ["unused"]) is None
