"""An Envoy that was taken over dials what no decision named: the kernel refuses what it knows to be wrong.

Programs run with Envoy's uid and try for themselves; no decision is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest
from attacked import Attacker, Whole, request
from instance import wait_for

from remit.app import identities
from remit.settings import Settings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="without root, Envoy has no uid of its own")

DIAL = """
import json, socket, sys
said = []
for kind, address, port in json.load(sys.stdin):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        try:
            sock.connect((address, port))
            if kind == "udp":
                sock.send(b"x"); sock.send(b"x")
            said.append("reached")
        except OSError as error:
            said.append(type(error).__name__ if isinstance(error, TimeoutError) else str(error.strerror))
print(json.dumps(said))
"""
OWN = "11.201.7.1"
"""As public as any other, and of this node while the tests run."""


def dialled(whole: Whole, *wanted: tuple[str, str, int]) -> list[str]:
    uid = identities.of(Settings(state_dir=whole.remit.state, run_dir=whole.remit.run_dir))
    assert uid is not None
    done = subprocess.run(
        ["/usr/bin/python3", "-c", DIAL], input=json.dumps(wanted), text=True, capture_output=True, check=True,
        user=uid.envoy, group=uid.envoy, extra_groups=[], cwd="/", timeout=60,
    )  # fmt: skip
    said: list[str] = json.loads(done.stdout)
    return said


@contextlib.contextmanager
def listening(address: str, port: int = 0) -> Iterator[tuple[socket.socket, int]]:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.bind((address, port))
        listener.listen()
        listener.setblocking(False)
        yield listener, listener.getsockname()[1]


def nobody_came(listener: socket.socket) -> bool:
    try:
        listener.accept()
    except BlockingIOError:
        return True
    return False


@pytest.fixture
def own(whole: Whole) -> Iterator[str]:
    subprocess.run(["ip", "addr", "add", f"{OWN}/32", "dev", "lo"], check=True)
    yield OWN
    subprocess.run(["ip", "addr", "del", f"{OWN}/32", "dev", "lo"], check=True)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fe80::1", "10.9.8.7", "192.168.7.7", "172.16.0.9", "198.18.0.1", "fd00:201::9", "::ffff:169.254.169.254"],
)  # fmt: skip
def test_metadata_and_neighbours_are_refused(whole: Whole, address: str) -> None:
    said = dialled(whole, ("tcp", address, 80), ("tcp", address, whole.upstreams.https_port))
    assert all(one in ("Connection refused", "Network is unreachable", "Invalid argument") for one in said), said


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "127.77.1.2"])
def test_the_node_itself_is_refused_but_for_the_ports_that_capabilities_open(whole: Whole, address: str) -> None:
    with listening(address) as (listener, port):
        assert dialled(whole, ("tcp", address, port)) == ["Connection refused"]
        assert nobody_came(listener)
    opened = whole.upstreams.https_port
    with contextlib.suppress(OSError), listening(address, opened):
        pass
    expected = "reached" if address == "127.0.0.1" else "Connection refused"
    assert dialled(whole, ("tcp", address, opened)) == [expected]


def test_an_address_that_the_node_gets_later_is_refused_at_once(whole: Whole, own: str) -> None:
    with listening(own) as (listener, port):
        assert (
            dialled(whole, ("tcp", own, port), ("tcp", own, whole.upstreams.https_port)) == ["Connection refused"] * 2
        )
        assert nobody_came(listener)


def test_nothing_but_tcp_leaves(whole: Whole) -> None:
    said = dialled(whole, ("udp", "127.0.0.1", 53), ("udp", "224.0.0.1", 53), ("udp", "8.8.8.8", 53))
    assert "reached" not in said, said


def test_a_range_is_open_for_as_long_as_its_capability_is_in_force(whole: Whole) -> None:
    with listening("127.50.0.1") as (_, port):
        manifest = "apiVersion: remit.dev/v1alpha1\nkind: Capability\nmetadata: {name: fence}\nspec: {hosts: [fence.up.example], ports: [%d], addresses: [127.50.0.0/16]}\n"
        assert dialled(whole, ("tcp", "127.50.0.1", port)) == ["Connection refused"]
        whole.remit.apply(manifest % port)
        assert dialled(whole, ("tcp", "127.50.0.1", port)) == ["reached"], "open when `apply` has answered"
        assert dialled(whole, ("tcp", "127.50.0.1", port + 1)) == ["Connection refused"]
        whole.remit.cli("revoke", "capability", "fence")
        assert dialled(whole, ("tcp", "127.50.0.1", port)) == ["Connection refused"], (
            "closed when `revoke` has answered"
        )


def test_a_name_that_resolves_to_the_node_itself_is_not_dialled(whole: Whole, cell: Attacker, own: str) -> None:
    """Public or not: only a capability that names the range reaches the node."""
    port = whole.hostile.port
    whole.names.table["own.up.example"] = (own,)
    manifest = f"apiVersion: remit.dev/v1alpha1\nkind: Capability\nmetadata: {{name: own}}\nspec: {{hosts: [own.up.example], ports: [{port}]}}\n---\napiVersion: remit.dev/v1alpha1\nkind: Role\nmetadata: {{name: owner}}\nspec: {{capabilities: [own]}}\n"
    whole.remit.apply(manifest)
    with whole.attacker("owner") as mine:

        def asked() -> dict[str, object]:
            return mine.ask("own.up.example", port, request("own.up.example", port))

        record = whole.refused(asked, "address_refused")
    assert "this node's own address" in record["detail"]


def test_explain_says_of_the_nodes_own_address_what_the_boundary_says(whole: Whole, own: str) -> None:
    role = "kind: Role\nmetadata: {name: plain-owner}\nspec: {capabilities: [plain-own]}\n"
    capability = (
        f"kind: Capability\nmetadata: {{name: plain-own}}\nspec: {{protocol: http, hosts: ['{own}'], ports: [80]}}\n"
    )
    whole.remit.apply("---\n".join(f"apiVersion: remit.dev/v1alpha1\n{one}" for one in (role, capability)))
    data = f"GET / HTTP/1.1\r\nhost: {own}\r\n\r\n".encode()
    with whole.attacker("plain-owner") as mine:
        record = whole.refused(lambda: mine.ask(own, 80, data, to=own, tls=False), "address_refused")
    told = json.loads(whole.remit.cli("explain", "--role", "plain-owner", "GET", f"http://{own}/", "--json").stdout)
    assert (told["decision"], told["reason"], told["detail"]) == ("deny", "address_refused", record["detail"])
    assert "this node's own address" in record["detail"]


def test_the_table_goes_with_the_instance(whole: Whole) -> None:
    uid = identities.of(Settings(state_dir=whole.remit.state, run_dir=whole.remit.run_dir))
    assert uid is not None
    listed = wait_for(
        lambda: subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout, "tables"
    )
    assert f"table inet {uid.fence}" in listed
