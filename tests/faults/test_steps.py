"""Each part is killed, or stands still, at each step of one request.

Whatever happens: what arrives upstream stands in the log as permitted, an answer that looks whole is whole, the agent
gets an end and no secret, the part comes back, and the next request goes through.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacked import Attacker, Whole
from instance import wait_for
from steps import MANIFEST, STEPS, Stopped, arrived, ordinary, permitted

pytestmark = pytest.mark.xdist_group("faults-steps")

PARTS = ("forward", "envoy", "decide", "policy", "control")
STANDING = ("half of the body is said", "the decision looks the address up", "half of the answer has come")
"""A part that stands still is one that was killed five seconds later; so not at every step."""
FAULTS = [(step, part, signal.SIGKILL) for step in STEPS for part in PARTS] + [
    (step, part, signal.SIGSTOP) for step in STANDING for part in PARTS
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    made = Whole(tmp_path_factory.mktemp("whole"))
    try:
        made.up()
        made.remit.apply(MANIFEST.format(http=made.upstreams.http_port))
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def cell(whole: Whole) -> Iterator[Attacker]:
    with whole.attacker("attacker") as made:
        yield made


def process(whole: Whole, part: str) -> int | None:
    """Of the policy worker: the child of the decision service that runs it. None while there is none."""
    found = whole.remit.pids().get("decide" if part == "policy" else part)
    if found is None or part != "policy":
        return found
    children = Path(f"/proc/{found}/task/{found}/children").read_text().split()
    return int(children[0]) if children else None


@pytest.mark.parametrize(("step", "part", "number"), FAULTS, ids=lambda one: str(getattr(one, "name", one)))
def test_a_part_that_dies_or_stands_still_at_a_step_lets_nothing_through_unrecorded(
    whole: Whole, cell: Attacker, step: str, part: str, number: signal.Signals
) -> None:
    case = f"{list(STEPS).index(step)}-{part}-{number.name.lower()}"
    before = len(whole.upstreams.seen)
    stopped = Stopped(whole, cell, STEPS[step], case)
    victim = process(whole, part)
    assert victim is not None
    os.kill(victim, number)
    stopped.finish()
    wait_for(lambda: ordinary(whole, cell, f"/v1/after/{case}") == 200, "a request afterwards")
    wait_for(lambda: process(whole, part) not in (None, victim), f"a new {part}")
    assert arrived(whole, before) <= permitted(whole)


def test_the_log_of_all_that_verifies(whole: Whole) -> None:
    assert whole.remit.cli("audit", "verify").stdout.startswith("ok")
