"""The clock of one part, or of all, is set by a year at each step of one request, and later set right again.

Whatever happens meanwhile: what arrives upstream stands in the log as permitted, an answer that looks whole is whole, the
agent gets no secret; and with the clock right, the next request goes through.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from attacked import Attacker, Whole
from instance import wait_for
from skewed import PARTS, Clocks
from steps import MANIFEST, STEPS, Stopped, arrived, ordinary, permitted

pytestmark = [
    pytest.mark.xdist_group("faults-clock"),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("cc") is None, reason="needs root and a C compiler"),
]

MONTH, YEAR = 31 * 86400, 365 * 86400
SINGLE = ("the connection is made", "half of the body is said", "the decision looks the address up")
"""Steps at which the parts differ; at each of them, all are set together."""
VERIFY = """
import socket, ssl
try:
    with socket.create_connection((address(host), port), 15) as sock:
        ssl.create_default_context().wrap_socket(sock, server_hostname=host).close()
    result = ""
except ssl.SSLError as error:
    result = getattr(error, "verify_message", str(error))
"""
JUMPS = [
    (step, part, jump) for step in STEPS for part in PARTS for jump in (YEAR, -YEAR) if part == "all" or step in SINGLE
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Whole, Clocks]]:
    made = Whole(tmp_path_factory.mktemp("whole"))
    clocks = Clocks(made.remit.directory / "clocks")
    made.remit.around = clocks.around
    try:
        made.up()
        made.remit.apply(MANIFEST.format(http=made.upstreams.http_port))
        yield made, clocks
    finally:
        made.down()


@pytest.fixture(scope="module")
def cell(whole: tuple[Whole, Clocks]) -> Iterator[Attacker]:
    with whole[0].attacker("attacker") as made:
        yield made


def test_the_clocks_are_set(whole: tuple[Whole, Clocks], cell: Attacker) -> None:
    """Else all that follows would show nothing."""
    node, clocks = whole
    assert ordinary(node, cell, "/v1/today") == 200
    clocks.set("decide", YEAR)
    try:
        assert ordinary(node, cell, "/v1/a-year-on") == 200
    finally:
        clocks.set("decide", 0)
    times = {one["path"]: str(one["time"]) for one in node.remit.audit(decision="permit")}
    assert int(times["/v1/a-year-on"][:4]) == int(times["/v1/today"][:4]) + 1


@pytest.mark.parametrize(("jump", "wrong"), [(MONTH, "not yet valid"), (-MONTH, "handshake failure")])
def test_a_name_whose_certificate_was_made_by_a_wrong_clock_gets_another(
    whole: tuple[Whole, Clocks], cell: Attacker, jump: int, wrong: str
) -> None:
    node, clocks = whole
    name, port = f"{wrong.replace(' ', '-')}.wild.up.example", node.upstreams.https_port
    clocks.set("decide", jump)
    try:
        assert wrong in cell.do(VERIFY, host=name, port=port)
    finally:
        clocks.set("decide", 0)
    wait_for(lambda: cell.do(VERIFY, host=name, port=port) == "", "a good certificate")


@pytest.mark.parametrize(("step", "part", "jump"), JUMPS)
def test_a_clock_that_is_set_at_a_step_lets_nothing_through_unrecorded(
    whole: tuple[Whole, Clocks], cell: Attacker, step: str, part: str, jump: int
) -> None:
    node, clocks = whole
    case = f"{list(STEPS).index(step)}-{part}-{'on' if jump > 0 else 'back'}"
    before = len(node.upstreams.seen)
    stopped = Stopped(node, cell, STEPS[step], case)
    clocks.set(part, jump)
    try:
        stopped.finish()
        ordinary(node, cell, f"/v1/meanwhile/{case}")
    finally:
        clocks.set(part, 0)
    wait_for(lambda: ordinary(node, cell, f"/v1/after/{case}") == 200, "a request afterwards")
    assert arrived(node, before) <= permitted(node)


def test_the_log_of_all_that_verifies(whole: tuple[Whole, Clocks]) -> None:
    assert whole[0].remit.cli("audit", "verify").stdout.startswith("ok")
