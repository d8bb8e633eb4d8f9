"""The disk of the audit log fills at each step of one request: before its decision it is refused, after it, it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacked import Attacker, Whole
from instance import wait_for
from steps import API, MANIFEST, STEPS, Stopped, arrived, ordinary, permitted

pytestmark = [
    pytest.mark.xdist_group("faults-disk"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """The state is on a small file system of its own."""
    made = Whole(tmp_path_factory.mktemp("whole"))
    made.remit.environment["REMIT_AUDIT_SEGMENT_BYTES"] = str(64 << 10)
    made.remit.state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=711", "tmpfs", str(made.remit.state)]
    subprocess.run(mount, check=True)
    try:
        made.up()
        made.remit.apply(MANIFEST.format(http=made.upstreams.http_port))
        yield made
    finally:
        made.remit.cli("down", check=False)
        subprocess.run(["umount", str(made.remit.state)], check=True)
        made.down()


@pytest.fixture(scope="module")
def cell(whole: Whole) -> Iterator[Attacker]:
    with whole.attacker("attacker") as made:
        yield made


@pytest.fixture(scope="module")
def other(whole: Whole) -> Iterator[Attacker]:
    """Spends the room that the log reserved beforehand."""
    with whole.attacker("attacker") as made:
        yield made


def fill(path: Path) -> None:
    """Take what is left of the disk."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


SPEND = """
sock = connect(host, port, tls=False)
for count in range(5000):
    if send(sock, data)["status"] != 200:
        break
result = count
"""
"""Requests of one connection, until one is refused."""


def spend(whole: Whole, other: Attacker, filler: Path) -> None:
    """Fill the disk until requests are refused; quickly, for a stopped request does not wait for ever."""
    port, spent = whole.upstreams.http_port, list[int]()
    data = f"GET /v1/other HTTP/1.1\r\nhost: {API}:{port}\r\n\r\n".encode()
    spending = threading.Thread(target=lambda: spent.append(other.do(SPEND, host=API, port=port, data=data)))
    spending.start()
    while spending.is_alive():
        fill(filler)
        spending.join(0.02)
    assert spent[0] < 4999, "the disk is not full"


SHORT = ("the connection is made", "the decision looks the address up")
"""Steps that wait for less time than it takes to fill a disk."""


@pytest.mark.parametrize("step", [step for step in STEPS if step not in SHORT])
def test_a_disk_that_is_full_at_a_step_lets_nothing_through_unrecorded(
    whole: Whole, cell: Attacker, other: Attacker, step: str
) -> None:
    case, before = f"full-{list(STEPS).index(step)}", len(whole.upstreams.seen)
    stopped = Stopped(whole, cell, STEPS[step], case)
    filler = whole.remit.state / "filler"
    try:
        spend(whole, other, filler)
        answer = stopped.finish()
        if STEPS[step].decided:
            assert answer["status"] == 200, answer
        else:
            assert json.loads(answer["body"])["reason"] == "audit_unavailable", answer
        assert (stopped.path in arrived(whole, before)) is STEPS[step].decided
    finally:
        filler.unlink()
    wait_for(lambda: ordinary(whole, cell, f"/v1/after/{case}") == 200, "a request afterwards")
    assert arrived(whole, before) <= permitted(whole)


def test_the_log_of_all_that_verifies(whole: Whole) -> None:
    assert whole.remit.cli("audit", "verify").stdout.startswith("ok")
