"""A whole instance whose credentials come from a real OpenBao and a real PostgreSQL."""

import base64
import json
import os
import signal
from collections.abc import Iterator

import pytest
from bao import Bao, Postgres, working_with
from instance import Instance, asking, wait_for
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("openbao")

MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: agent}}
spec: {{capabilities: [api, data]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: api}}
spec: {{hosts: [api.up.example], ports: [{https}], paths: [/v1/**], credential: key, addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: data}}
spec: {{hosts: [api.up.example], ports: [{https}], paths: [/data/**], credential: database, addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: key}}
spec:
  source: {{openbao: {{path: apps/api, key: token, refresh: 1s}}}}
  hosts: [api.up.example]
  inject: {{header: {{name: Authorization, format: "Bearer {{secret}}"}}}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: database}}
spec:
  source: {{lease: {{engine: database, role: reader}}}}
  hosts: [api.up.example]
  inject: {{basic: {{}}}}
"""


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Upstreams:
    return Upstreams(tmp_path_factory.mktemp("up"))


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def bao(postgres: Postgres) -> Iterator[Bao]:
    server = Bao()
    server.database(postgres)
    server.put("apps/api", token="from-the-store-71")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def instance(upstreams: Upstreams, bao: Bao) -> Iterator[Instance]:
    with working_with(bao, upstreams, MANIFESTS) as found:
        yield found


def sent(upstreams: Upstreams, path: str) -> str:
    return str(upstreams.reached(path)[-1]["headers"]["authorization"])


def test_a_stored_secret_reaches_the_upstream_and_not_the_cell(instance: Instance, upstreams: Upstreams) -> None:
    with asking(instance, f"https://api.up.example:{upstreams.https_port}/v1/a"):
        assert sent(upstreams, "/v1/a") == "Bearer from-the-store-71"


def test_a_sealed_store_refuses_says_so_and_recovers(instance: Instance, upstreams: Upstreams, bao: Bao) -> None:
    with asking(instance, f"https://api.up.example:{upstreams.https_port}/v1/b") as ask:
        bao.seal()
        try:
            refused = wait_for(lambda: (said := ask()).startswith("403") and said, "a denial")
            assert "credential_unavailable" in refused and "is sealed" in refused
            before = len(upstreams.seen)
            assert ask().startswith("403")
            assert len(upstreams.seen) == before
        finally:
            bao.unseal()
        wait_for(lambda: ask() == "200\n", "it recovers")


def test_a_lease_works_at_the_database_and_ends_with_its_task(
    instance: Instance, upstreams: Upstreams, postgres: Postgres
) -> None:
    with asking(instance, f"https://api.up.example:{upstreams.https_port}/data/a"):
        word = base64.b64decode(sent(upstreams, "/data/a").removeprefix("Basic ")).decode()
        user, _, password = word.partition(":")
        assert postgres.admits(user, password)
        state = (instance.state / "decide" / "leases.jsonl").read_text()
        assert password not in state and json.loads(state.splitlines()[-1])["open"]
    wait_for(lambda: not postgres.users(), "the lease is taken back")


def test_after_kill_9_the_leases_of_before_are_taken_back(
    instance: Instance, upstreams: Upstreams, postgres: Postgres
) -> None:
    with asking(instance, f"https://api.up.example:{upstreams.https_port}/data/b") as ask:
        before = postgres.users()
        assert len(before) == 1
        os.kill(instance.pids()["decide"], signal.SIGKILL)
        wait_for(lambda: not before & postgres.users(), "what the dead process held is taken back")
        wait_for(lambda: ask() == "200\n", "a new lease")
        assert len(postgres.users()) == 1
    wait_for(lambda: not postgres.users(), "the lease is taken back")


def test_what_is_tried_is_not_shown_and_a_lease_is_taken_back(instance: Instance, bao: Bao) -> None:
    def leases() -> set[str]:
        try:
            return set(bao.root("LIST", "sys/leases/lookup/database/creds/reader")["data"]["keys"])
        except OSError:
            return set()

    before = leases()
    for name in ("key", "database"):
        found = json.loads(instance.cli("secret", "test", name, "--json").stdout)
        assert (found["ok"], found["source"].split()[0]) == (True, "openbao")
        assert "from-the-store" not in str(found)
        assert (found["expires"] is not None) == (name == "database")
    assert leases() <= before
    bao.seal()
    try:
        done = instance.cli("secret", "test", "database", "--json", check=False)
        assert done.returncode == 1
        assert "is sealed" in json.loads(done.stdout)["detail"]
    finally:
        bao.unseal()
