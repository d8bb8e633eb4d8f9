"""What Envoy refuses or ends by itself becomes an entry: real Envoy, real spool, the real follower."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from boundary_harness import Boundary, send, until

from remit.boundary import completions, envoy, spool

Entries = list[tuple[str | None, Mapping[str, Any]]]


@pytest.fixture
def entries(boundary: Boundary, request: pytest.FixtureRequest) -> Entries:
    """Everything the follower hands on; lines of earlier tests come again."""
    found: Entries = []

    async def handler(record: str | None, fields: Mapping[str, Any]) -> None:
        found.append((record, fields))

    async def reopen() -> None:
        await envoy.reopen_logs(Path(str(boundary.layout.admin_socket)))

    mark = boundary.directory / f"mark-{request.node.name}"
    name = f"follow-{request.node.name}"
    boundary.start(name, completions.follow(Path(boundary.layout.spool), mark, handler, reopen))
    request.addfinalizer(lambda: boundary.stop(name))
    return found


def entry(entries: Entries, record: str | None, **wanted: object) -> Mapping[str, Any]:
    def look() -> Mapping[str, Any] | None:
        return next((f for r, f in entries if r == record and all(f.get(k) == v for k, v in wanted.items())), None)

    found = until(look, f"an entry {record} {wanted}; there are {entries[-3:]}")
    assert isinstance(found, Mapping)
    return found


def test_a_permitted_request_is_completed_under_its_record(boundary: Boundary, entries: Entries) -> None:
    boundary.script = boundary.permit_with(record="r-complete")
    boundary.ask(method="POST", body=b"12345")
    found = entry(entries, "r-complete")
    assert (found["status"], found["bytes_out"], found["ending"]) == (200, 5, "via_upstream")
    assert found["bytes_in"] > 0 and not {"host", "path", "detail", "reason"} & found.keys()


def test_a_denied_request_is_completed_under_its_record_too(boundary: Boundary, entries: Entries) -> None:
    boundary.script = boundary.deny
    record = boundary.ask().json["record"]
    assert entry(entries, record)["status"] == 403


def test_a_request_that_envoy_cannot_read_is_an_entry_of_its_flow(boundary: Boundary, entries: Entries) -> None:
    with boundary.connect(port=80, tls=False, source=("100.64.0.1", 1999)) as sock:
        send(sock, b"GET /x?secret HTTP/1.1\r\nhost: api.test\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n")
    found = entry(entries, None, flow="100.64.0.1:1999")
    assert found["status"] == 400 and found["detail"].startswith("http1.") and found["port"] == 80
    assert "secret" not in str(entries)


@pytest.mark.parametrize(("sni", "detail"), [("API.test", completions.NO_LEAF)])
def test_a_name_without_a_certificate_is_an_entry(boundary: Boundary, entries: Entries, sni: str, detail: str) -> None:
    with contextlib.suppress(ssl.SSLError, OSError):
        boundary.connect("api.test", sni=sni, source=("100.64.0.1", 1998))
    assert detail in entry(entries, None, flow="100.64.0.1:1998")["detail"]


def test_a_client_that_does_not_trust_us_is_an_entry(boundary: Boundary, entries: Entries) -> None:
    context = ssl.create_default_context(cafile=str(boundary.authority.file))
    sock = boundary.connect("api.test", tls=False, port=443, source=("100.64.0.1", 1997))
    with sock, pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(sock, server_hostname="api.test")
    found = entry(entries, None, flow="100.64.0.1:1997")
    assert found["detail"].startswith("the TLS handshake failed") and found["host"] == "api.test"


def test_the_spool_is_rotated_under_a_running_envoy_without_losing_a_line(
    boundary: Boundary, entries: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "ROTATE_BYTES", 1)
    inode = Path(boundary.layout.spool).stat().st_ino
    for number in range(30):
        boundary.script = boundary.permit_with(record=f"r-rotate-{number}")
        boundary.ask(port=80, tls=False)
    for number in range(30):
        entry(entries, f"r-rotate-{number}")

    def anew() -> bool:
        with contextlib.suppress(FileNotFoundError):
            return Path(boundary.layout.spool).stat().st_ino != inode
        return False

    until(anew, "Envoy writes to a new file")
    boundary.script = boundary.permit_with(record="r-after")
    boundary.ask(port=80, tls=False)
    entry(entries, "r-after")


async def test_an_envoy_that_is_not_there_is_an_error_in_time(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        await asyncio.wait_for(envoy.reopen_logs(tmp_path / "none"), 5)
