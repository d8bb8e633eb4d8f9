"""Short names in a real cell, completed by its real resolver: the covered one is found, and names in full stay theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from instance import Instance, refused, wait_for
from upstreams import Upstreams

from remit.core import flow

pytestmark = pytest.mark.xdist_group("search-domains")

MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: agent}}
spec: {{capabilities: [greeter, api]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: greeter}}
spec: {{protocol: tcp, hosts: [db.second.example], ports: [{greeter}], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: api}}
spec: {{hosts: [api.up.example], ports: [{https}], addresses: [127.0.0.0/8]}}
"""

LOOK = """
import json, socket, sys
def look(name):
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        return type(error).__name__
found = {name: look(name) for name in sys.argv[2:]}
with socket.create_connection(("db", int(sys.argv[1])), 20) as sock:
    found["said"] = sock.recv(100).decode().strip()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Instance, servers.Greeter, Upstreams]]:
    directory: Path = tmp_path_factory.mktemp("up")
    upstreams, greeter = Upstreams(directory), servers.Greeter()
    remit = Instance(hosts={"db.second.example": "127.0.0.1", "api.up.example": "127.0.0.1"}, ca=upstreams.ca)
    remit.environment["REMIT_SEARCH_DOMAINS"] = "first.example,second.example"
    try:
        remit.up()
        remit.apply(MANIFESTS.format(greeter=greeter.port, https=upstreams.https_port))
        yield remit, greeter, upstreams
    finally:
        remit.down()


def test_the_domain_whose_name_is_covered_completes_a_short_one(
    site: tuple[Instance, servers.Greeter, Upstreams],
) -> None:
    remit, greeter, _ = site
    names = ("db", "db.second.example", "nothing", "nothing.first.example", "other.example")
    done = remit.run("agent", sys.executable, "-c", LOOK, str(greeter.port), *names)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["said"] == "220 hello"
    assert found["db"] == found["db.second.example"] == flow.virtual("db.second.example")[0]
    assert found["nothing.first.example"] == "gaierror"
    assert found["nothing"] == flow.virtual("nothing")[0], "no domain has it: it stands for itself, and is refused"
    assert found["other.example"] == flow.virtual("other.example")[0]
    wait_for(lambda: remit.audit(kind="dns", host="nothing.first.example"), "a record of the hidden name")


def test_a_name_in_full_works_whatever_is_tried_before_it(site: tuple[Instance, servers.Greeter, Upstreams]) -> None:
    """With ndots as in a Kubernetes pod the search domains come first."""
    remit, _, upstreams = site
    url = f"https://api.up.example:{upstreams.https_port}/v1/x"
    done = remit.run("agent", "curl", "-sS", "-m", "20", url, options=("--env", "RES_OPTIONS=ndots:5"))
    assert json.loads(done.stdout)["path"] == "/v1/x", done.stderr


def test_a_domain_that_cannot_be_searched_is_refused_at_the_start() -> None:
    for domain in ("Corp.Example", "corp.example.", "a b", "-x", "a,b,c,d,e,f,g"):
        instance = Instance(hosts={}, ca=None)
        instance.environment["REMIT_SEARCH_DOMAINS"] = domain
        try:
            refused(instance, 2, "search_domains")
        finally:
            instance.down()
