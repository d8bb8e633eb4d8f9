"""Networks of cells, made for real: what is in one, that nothing leaks into or out of the maker, and as whom it works."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from remit.cell import network
from remit.core.errors import Unavailable

_USER = 64_980
_PR_SET_DUMPABLE = 4
_EXPECTED = [
    (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", network.TCP_PORT),
    (socket.AF_INET6, socket.SOCK_STREAM, "::1", network.TCP_PORT),
    (socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1", network.DNS_PORT),
    (socket.AF_INET6, socket.SOCK_DGRAM, "::1", network.DNS_PORT),
    (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", network.DNS_PORT),
    (socket.AF_INET6, socket.SOCK_STREAM, "::1", network.DNS_PORT),
]


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _listening(made: network.Network) -> list[tuple[int, int, str, int]]:
    return [(sock.family, sock.type, *sock.getsockname()[:2]) for sock in made.listeners]


def test_the_listeners_come_in_the_order_of_the_protocol() -> None:
    made = network.create()
    try:
        assert _listening(made) == _EXPECTED
    finally:
        made.close()


def test_a_network_is_a_new_one_and_its_maker_stays_where_it_was() -> None:
    before = os.stat("/proc/self/ns/net").st_ino
    made = network.create()
    try:
        assert os.fstat(made.namespace).st_ino != before == os.stat("/proc/self/ns/net").st_ino
        assert all(not os.get_inheritable(number) for number in (made.namespace, *(s.fileno() for s in made.listeners)))
    finally:
        made.close()


def test_networks_made_at_once_are_apart_and_leave_nothing() -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: network.create().close(), range(4)))
        before = _open_files()
        made = list(pool.map(lambda _: network.create(), range(8)))
        assert len({os.fstat(one.namespace).st_ino for one in made}) == 8
        for one in made:
            one.close()
        assert _open_files() == before


@pytest.mark.parametrize("tool", ["ip", "nft"])
def test_a_tool_that_fails_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    for name in ("ip", "nft"):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\ncat >/dev/null\n{'echo no can do >&2; exit 3' if name == tool else ''}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    before = _open_files()
    with pytest.raises(Unavailable) as caught:
        network.create()
    assert caught.value.detail == f"no network for the cell: {tool} ended with 3: no can do"
    assert caught.value.hint == "remit doctor"
    assert _open_files() == before


def test_a_tool_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"no network for the cell: ip: .*No such file"):
        network.create()


_PRELUDE = f"""
import ctypes, os, socket
from pathlib import Path
from remit.cell import network, rootless
from remit.core.errors import Unavailable

def listening(made):
    return [(sock.family, sock.type, *sock.getsockname()[:2]) for sock in made.listeners]

os.setgroups([])
os.setresgid({_USER}, {_USER}, {_USER})
os.setresuid({_USER}, {_USER}, {_USER})
# A process that gave up root does not own its /proc; one that was never root does.
ctypes.CDLL(None).prctl({_PR_SET_DUMPABLE}, 1, 0, 0, 0)
"""


def _as_a_user(source: str) -> list[str]:
    """The lines that `source` prints in a process of one thread, as an ordinary user."""
    done = subprocess.run([sys.executable, "-c", _PRELUDE + source], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_ordinary_user_gets_the_same_network_in_a_user_namespace() -> None:
    source = (
        "rootless.enter()\nprint([tuple(map(str, one)) for one in listening(network.create())])\nprint(os.geteuid())"
    )
    listeners, user = _as_a_user(source)
    assert listeners == str([tuple(map(str, one)) for one in _EXPECTED])
    assert user == str(_USER)


def test_an_ordinary_user_without_a_user_namespace_is_refused() -> None:
    (said,) = _as_a_user("try:\n    network.create()\nexcept Unavailable as error:\n    print(error.detail)")
    assert "Operation not permitted" in said


def test_root_of_a_user_namespace_is_nobody_outside_of_it() -> None:
    source = """
rootless.enter()
for attempt in (lambda: Path("/etc/shadow").read_text(), lambda: os.setuid(1)):
    try:
        attempt()
        print("done")
    except OSError as error:
        print(error.strerror)
"""
    assert _as_a_user(source) == ["Permission denied", "Invalid argument"]
