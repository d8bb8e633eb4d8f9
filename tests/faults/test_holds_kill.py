"""kill -9 of each part while a request is held: it is denied, nothing passes, and what is known of it stays true."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import asked
import pytest
from asked import Agent
from instance import REMIT, Instance, wait_for
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("faults-holds")


@pytest.fixture(scope="module")
def asking_upstreams(tmp_path_factory: pytest.TempPathFactory) -> Upstreams:
    return Upstreams(tmp_path_factory.mktemp("upstreams"))


@pytest.fixture(scope="module")
def asking_remit(asking_upstreams: Upstreams) -> Iterator[Instance]:
    with asked.asked(asking_upstreams, REMIT_HOLD_S="12") as instance:
        yield instance


def killed(remit: Instance, part: str, agent: Agent) -> None:
    """kill -9, and wait for the new one to serve the cell."""
    before = remit.pids()[part]
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: remit.pids().get(part) not in (None, before), f"a new {part}")
    wait_for(lambda: json.loads(remit.cli("status", "--json", check=False).stdout or "{}").get("ok"), "it is well")
    wait_for(lambda: agent.ask("/v1/up").status == 200, "the cell is served")


@pytest.mark.parametrize("part", ["decide", "envoy"])
def test_a_held_request_dies_with_what_holds_it_and_its_approval_stays(
    asking_remit: Instance, asking_upstreams: Upstreams, part: str
) -> None:
    path = f"/pay/kill-{part}"
    with asked.agent(asking_remit, asking_upstreams) as agent:
        number = agent.send(path)
        shown = asked.waiting(asking_remit, path)
        killed(asking_remit, part, agent)
        assert agent.answer(number).status in (0, 503)
        assert asking_upstreams.reached(path) == []
        asking_remit.cli("approvals", "approve", shown["id"])
        assert asking_upstreams.reached(path) == []  # an answer lets nothing through that does not ask
        assert agent.ask(path).status == 200
        assert len(asking_upstreams.reached(path)) == 1
        second = agent.send(path)  # and it was for once
        again = asked.waiting(asking_remit, path)
        assert again["id"] != shown["id"]
        asking_remit.cli("approvals", "deny", again["id"])
        assert agent.answer(second).reason == "approval_denied"
    assert len(asking_upstreams.reached(path)) == 1


def test_a_held_request_outlives_the_control_plane_and_is_answered_by_the_next_one(
    asking_remit: Instance, asking_upstreams: Upstreams
) -> None:
    path = "/pay/kill-control"
    with asked.agent(asking_remit, asking_upstreams) as agent:
        number = agent.send(path)
        shown = asked.waiting(asking_remit, path)
        killed(asking_remit, "control", agent)
        assert asking_upstreams.reached(path) == []
        assert asked.waiting(asking_remit, path)["id"] == shown["id"]
        asking_remit.cli("approvals", "approve", shown["id"])
        assert agent.answer(number).status == 200
    assert len(asking_upstreams.reached(path)) == 1


class Watcher:
    """`remit approvals watch`, read as it is written."""

    def __init__(self, remit: Instance) -> None:
        self.process = subprocess.Popen(
            [str(REMIT), "approvals", "watch", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=remit.environment,
        )  # fmt: skip

    def told(self, identity: str) -> str:
        """The state that is told next of an approval."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            one = json.loads(line)
            if one["id"] == identity:
                return str(one["state"])
        raise AssertionError(f"it ended: {self.process.communicate()[1]}")


def test_who_watches_approvals_goes_on_with_the_next_control_plane_and_is_interrupted_cleanly(
    asking_remit: Instance, asking_upstreams: Upstreams
) -> None:
    path, later = "/pay/watched", "/pay/watched-later"
    watcher = Watcher(asking_remit)
    try:
        with asked.agent(asking_remit, asking_upstreams) as agent:
            number = agent.send(path)
            shown = asked.waiting(asking_remit, path)["id"]
            assert watcher.told(shown) == "pending"
            killed(asking_remit, "control", agent)
            asking_remit.cli("approvals", "deny", shown)
            assert watcher.told(shown) == "denied", "and not pending once more"
            assert agent.answer(number).reason == "approval_denied"
            second = agent.send(later)
            shown = asked.waiting(asking_remit, later)["id"]
            assert watcher.told(shown) == "pending"
            asking_remit.cli("approvals", "approve", shown)
            assert watcher.told(shown) == "approved"
            assert agent.answer(second).status == 200
        watcher.process.send_signal(signal.SIGINT)
        out, err = watcher.process.communicate(timeout=30)
        assert (watcher.process.returncode, out) == (130, "")
        assert err == "the control plane has gone; waiting for it\nthe control plane is back\n"
    finally:
        watcher.process.kill()
        watcher.process.communicate()


def test_a_control_plane_that_stands_still_is_a_denial_when_the_hold_is_over(
    asking_remit: Instance, asking_upstreams: Upstreams
) -> None:
    path = "/pay/stopped"
    with asked.agent(asking_remit, asking_upstreams) as agent:
        assert agent.ask("/v1/up").status == 200
        before = asking_remit.pids()["control"]
        os.kill(before, signal.SIGSTOP)  # the supervisor notices, and starts another one
        answer = agent.ask(path)
        assert answer.status in (403, 503)
        assert answer.reason in ("approval_unavailable", "approval_pending")
    wait_for(lambda: json.loads(asking_remit.cli("status", "--json", check=False).stdout or "{}").get("ok"), "well")
    assert asking_upstreams.reached(path) == []


def test_a_use_is_not_had_twice_however_often_decide_dies(asking_remit: Instance, asking_upstreams: Upstreams) -> None:
    path = "/pay/use"
    with asked.agent(asking_remit, asking_upstreams) as agent:
        number = agent.send(path)
        approval = asked.waiting(asking_remit, path)["id"]
        asking_remit.cli("approvals", "approve", approval, "--scope", "request", "--uses", "2")
        assert agent.answer(number).status == 200
        killed(asking_remit, "decide", agent)
        assert agent.ask(path).status == 200
        killed(asking_remit, "decide", agent)
        third = agent.send(path)
        asking_remit.cli("approvals", "deny", asked.waiting(asking_remit, path)["id"])
        assert agent.answer(third).reason == "approval_denied"
    assert len(asking_upstreams.reached(path)) == 2
    assert asking_remit.cli("audit", "verify").stdout.startswith("ok")
