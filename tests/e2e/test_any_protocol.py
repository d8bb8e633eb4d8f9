"""Databases, queues and shells through the boundary: real servers, their own clients in a cell, decided and cut."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import servers
from instance import Instance, wait_for
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("any-protocol")

MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: data}}
spec: {{capabilities: [postgres, cache, shell, greeter, pinned, web]}}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: nothing}}
spec: {{}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: postgres}}
spec: {{protocol: tcp, hosts: [db.up.example], ports: [{postgres}], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: cache}}
spec: {{protocol: tcp, hosts: ["*.cache.up.example"], ports: [{redis}], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: shell}}
spec: {{protocol: tcp, hosts: [shell.up.example], ports: [{ssh}], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: greeter}}
spec: {{protocol: tcp, hosts: [mail.up.example, private.up.example], ports: [{greeter}]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: pinned}}
spec: {{tls: passthrough, hosts: [other.up.example], ports: [{https}], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: web}}
spec: {{hosts: [api.up.example], ports: [{https}], addresses: [127.0.0.0/8]}}
"""


@dataclass
class Site:
    remit: Instance
    upstreams: Upstreams
    greeter: servers.Greeter
    postgres: int
    redis: int
    ssh: int
    key: str

    def psql(self, *arguments: str, role: str = "data", **options: Any) -> Any:
        url = f"postgresql://agent:pw@db.up.example:{self.postgres}/postgres?connect_timeout=10"
        return self.remit.run(role, "psql", "-w", "-At", url, *arguments, **options)

    def record(self, **wanted: object) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = [r for r in self.remit.audit() if all(r.get(k) == v for k, v in wanted.items())]
            return found[-1] if found else None

        return wait_for(look, f"a record with {wanted}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory: Path = tmp_path_factory.mktemp("servers")
    upstreams, greeter = Upstreams(tmp_path_factory.mktemp("up")), servers.Greeter()
    names = ("db", "a.cache", "shell", "mail", "other", "api")
    remit = Instance(hosts={f"{name}.up.example": "127.0.0.1" for name in names}, ca=upstreams.ca)
    with (
        servers.postgresql(directory / "pg") as postgres,
        servers.redis(directory / "redis") as redis,
        servers.ssh(directory / "ssh") as (ssh, key),
    ):
        try:
            remit.up()
            remit.apply(
                MANIFESTS.format(
                    postgres=postgres, redis=redis, ssh=ssh, greeter=greeter.port, https=upstreams.https_port
                )
            )
            yield Site(remit, upstreams, greeter, postgres, redis, ssh, key)
        finally:
            remit.down()


def test_postgresql_answers_and_its_connection_is_on_record_with_bytes_and_time(site: Site) -> None:
    done = site.psql("-c", "select 40 + 2")
    assert done.stdout == "42\n", done.stderr
    record = site.record(capability="postgres", decision="permit", ending="via_upstream", status=None)
    assert (record["scheme"], record["host"], record["port"]) == ("tcp", "db.up.example", site.postgres)
    assert (record["method"], record["address"], record["credential"]) == ("CONNECT", "127.0.0.1", None)
    assert record["bytes_out"] > 0 and record["bytes_in"] > 0 and record["duration_ms"] >= 0
    assert "The connection ended after " in site.remit.cli("why", record["id"]).stdout


def test_redis_answers_under_a_wildcard(site: Site) -> None:
    url = ["redis-cli", "-h", "a.cache.up.example", "-p", str(site.redis)]
    done = site.remit.run("data", *url, "set", "k", "v")
    assert done.stdout == "OK\n", done.stderr
    assert site.record(capability="cache", decision="permit")["host"] == "a.cache.up.example"


SSH = """
import os, subprocess, sys
open("key", "w", opener=lambda p, f: os.open(p, f, 0o600)).write(sys.argv[2])
raise SystemExit(subprocess.call(["ssh", "-F", "none", "-i", "key", "-p", sys.argv[1], "-o", "StrictHostKeyChecking=no",
    "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "root@shell.up.example", *sys.argv[3:]]))
"""


@pytest.mark.skipif(not shutil.which("ssh"), reason="set-up installs ssh where it can")
def test_ssh_runs_a_command(site: Site) -> None:
    done = site.remit.run("data", sys.executable, "-c", SSH, str(site.ssh), site.key, "echo from the other side")
    assert done.stdout == "from the other side\n", done.stderr


TUNNELLED = """
import socket, sys
with socket.create_connection(("proxy.remit.alt", 3128), 20) as sock:
    sock.sendall(f"CONNECT {sys.argv[1]} HTTP/1.1\\r\\nhost: {sys.argv[1]}\\r\\n\\r\\n".encode())
    said = b""
    while not said.endswith(b"\\r\\n\\r\\n"):
        said += sock.recv(1)
    sock.sendall(b"*1\\r\\n$4\\r\\nPING\\r\\n")
    print(said.split()[1].decode(), sock.recv(100))
"""


def test_a_tunnel_of_the_cells_proxy_carries_it_under_its_name(site: Site) -> None:
    """Under a wildcard, whose names count only once the cell has asked for them: asking for the tunnel is asking."""
    done = site.remit.run("data", sys.executable, "-c", TUNNELLED, f"a.cache.up.example:{site.redis}")
    assert done.stdout == "200 b'+PONG\\r\\n'\n", done.stderr
    refused = site.remit.run("nothing", sys.executable, "-c", TUNNELLED, f"a.cache.up.example:{site.redis}")
    assert "No capability of this role covers" in refused.stdout, refused.stderr
    assert site.record(reason="no_capability", role="nothing", scheme="tcp")["host"] == "a.cache.up.example"


GREET = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as sock:
    print(sock.recv(100).decode().strip())
"""


def test_a_server_that_speaks_first_is_heard_on_any_port(site: Site) -> None:
    manifest = """
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: greeter}}
spec: {{protocol: tcp, hosts: [mail.up.example, private.up.example], ports: [{port}], addresses: [127.0.0.0/8]}}
"""
    before = site.greeter.connections
    arguments = ("mail.up.example", str(site.greeter.port))
    refused = site.remit.run("data", sys.executable, "-c", GREET, *arguments)
    assert "220" not in refused.stdout
    assert site.record(reason="address_refused")["host"] == "mail.up.example"
    nobody = site.remit.run("nothing", sys.executable, "-c", GREET, *arguments)
    assert "220" not in nobody.stdout
    assert site.record(reason="no_capability", role="nothing")["host"] == "mail.up.example"
    assert site.greeter.connections == before, "nothing is dialled before it is permitted"
    site.remit.apply(manifest.format(port=site.greeter.port))
    done = site.remit.run("data", sys.executable, "-c", GREET, *arguments)
    assert done.stdout == "220 hello\n", done.stderr
    assert site.greeter.connections == before + 1


def test_a_refused_client_is_told_why(site: Site) -> None:
    done = site.psql("-c", "select 1", role="nothing")
    assert done.returncode != 0
    assert "No capability of this role covers the request" in done.stderr
    site.remit.cli("revoke", "capability", "postgres")
    try:
        done = site.psql("-c", "select 1")
        assert "The capability was revoked" in done.stderr and "remit restore capability" in done.stderr
    finally:
        site.remit.cli("restore", "capability", "postgres")


@pytest.mark.skipif(not shutil.which("ssh"), reason="set-up installs ssh where it can")
def test_a_refused_ssh_client_is_told_why(site: Site) -> None:
    done = site.remit.run("nothing", "ssh", "-F", "none", "-o", "StrictHostKeyChecking=no", "a@shell.up.example")
    assert done.returncode == 255
    assert "Received disconnect" in done.stderr and "(reason no_capability, record r-" in done.stderr


REFUSED = """
import ftplib, imaplib, smtplib, ssl
for connect in (
    lambda: smtplib.SMTP("mail.up.example", 25, timeout=10),
    lambda: ftplib.FTP("mail.up.example", timeout=10),
    lambda: smtplib.SMTP_SSL("mail.up.example", 465, timeout=10),
    lambda: imaplib.IMAP4_SSL("mail.up.example", 993, timeout=10),
):
    try: connect()
    except (smtplib.SMTPException, ftplib.Error, ssl.SSLError) as error: print(error)
"""


def test_a_client_that_waits_for_its_server_is_told_why(site: Site) -> None:
    done = site.remit.run("nothing", sys.executable, "-c", REFUSED)
    smtp, ftp, *within_tls = done.stdout.splitlines()
    assert "554" in smtp and "(reason no_capability, record r-" in smtp
    assert ftp.startswith("530 remit: No capability")
    assert len(within_tls) == 2 and all("ACCESS_DENIED" in said for said in within_tls), done.stdout + done.stderr


def test_open_connections_are_cut_and_others_go_on(site: Site) -> None:
    url = f"postgresql://agent:pw@db.up.example:{site.postgres}/postgres"
    with (
        site.remit.running(
            "data", "psql", "-w", "-At", url, "-c", "select 'begun'", "-c", "select pg_sleep(60)"
        ) as one,
        site.remit.running(
            "data", "redis-cli", "-h", "a.cache.up.example", "-p", str(site.redis), "subscribe", "c"
        ) as two,
    ):
        assert one.stdout is not None and two.stdout is not None
        assert one.stdout.readline() == "begun\n"
        assert two.stdout.readline().strip() == "subscribe"
        said = json.loads(site.remit.cli("revoke", "capability", "postgres", "--json").stdout)
        try:
            assert said["flows_closed"] == 1
            assert one.wait(60) != 0
            assert two.poll() is None
            site.remit.cli("panic", "--reason", "a test")
            assert two.wait(60) is not None
        finally:
            site.remit.cli("panic", "--lift", "--reason", "the test is over", check=False)
            site.remit.cli("restore", "capability", "postgres")


PINNED = """
import http.client, ssl, sys
name, port, ca, sni = sys.argv[1:]
context = ssl.create_default_context(cadata=ca)
context.check_hostname = False
import socket
sock = context.wrap_socket(socket.create_connection((name, int(port)), 20), server_hostname=sni)
sock.sendall(f"GET /v1/pinned HTTP/1.1\\r\\nhost: {sni}\\r\\nconnection: close\\r\\n\\r\\n".encode())
print(sock.recv(65536).split(b"\\r\\n")[0].decode())
"""


def test_a_client_that_pins_certificates_sees_the_upstreams_own(site: Site) -> None:
    ca, port = site.upstreams.ca.read_text(), str(site.upstreams.https_port)
    run = lambda *arguments: site.remit.run("data", sys.executable, "-c", PINNED, *arguments)  # noqa: E731
    done = run("other.up.example", port, ca, "other.up.example")
    assert done.stdout == "HTTP/1.1 200 OK\n", done.stderr
    record = site.record(capability="pinned", decision="permit")
    assert (record["scheme"], record["host"]) == ("tls-passthrough", "other.up.example")
    assert record["credential"] is None
    assert {name.lower() for name in site.upstreams.seen[-1]["headers"]} == {"host", "connection"}, "nothing was added"
    before = len(site.upstreams.seen)
    intercepted = run("api.up.example", port, ca, "api.up.example")
    assert "CERTIFICATE_VERIFY_FAILED" in intercepted.stderr, "elsewhere it sees the boundary's"
    fronted = run("other.up.example", port, ca, "api.up.example")
    assert "200" not in fronted.stdout
    assert site.record(reason="destination_mismatch")["role"] == "data"
    assert len(site.upstreams.seen) == before
