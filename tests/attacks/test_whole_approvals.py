"""Approvals attacked by real cells: what was not shown is not allowed, and nobody answers for themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import asked
import pytest
from asked import API, Agent
from governed import SECRET
from instance import Instance, wait_for
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("approvals-whole")


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Upstreams:
    return Upstreams(tmp_path_factory.mktemp("upstreams"))


@pytest.fixture(scope="module")
def remit(upstreams: Upstreams) -> Iterator[Instance]:
    with asked.asked(upstreams) as instance:
        yield instance


@pytest.fixture
def agent(remit: Instance, upstreams: Upstreams) -> Iterator[Agent]:
    with asked.agent(remit, upstreams) as made:
        yield made


def approve(remit: Instance, path: str, *options: str) -> dict[str, object]:
    done = remit.cli("approvals", "approve", asked.waiting(remit, path)["id"], "--json", *options)
    return dict(json.loads(done.stdout))


def test_a_request_waits_for_a_human_and_gets_its_credential_then(
    remit: Instance, upstreams: Upstreams, agent: Agent
) -> None:
    number = agent.send("/pay/first?to=bob", "POST", "ten euros")
    shown = asked.waiting(remit, "/pay/first")
    assert upstreams.reached("/pay/first") == []
    assert shown["question"]["target"] == "/pay/first?to=bob"
    assert (shown["question"]["body_text"], shown["question"]["credential"]) == ("ten euros", "key")
    assert "; all of it\n  | ten euros\n" in remit.cli("approvals", "show", shown["id"]).stdout
    approve(remit, "/pay/first")
    assert agent.answer(number).status == 200
    (seen,) = upstreams.reached("/pay/first")
    assert seen["headers"]["authorization"] == f"Bearer {SECRET}"
    assert seen["body"] == "ten euros"
    hold, permit = [r for r in remit.audit(host=API) if r["path"] == "/pay/first" and r["kind"] == "decision"]
    assert (hold["decision"], permit["decision"]) == ("hold", "permit")
    assert hold["approval"] == permit["approval"] == shown["id"]
    assert {r["action"] for r in remit.audit(kind="approval") if r.get("approval") == shown["id"]} == {
        "approval.request",
        "approval.approve",
    }


@pytest.mark.parametrize(
    ("scope", "path", "method", "body"),
    [
        ("once", "/pay/a?to=eve", "POST", "ten euros"),
        ("once", "/pay/a?to=bob", "POST", "ten thousand euros"),
        ("once", "/pay/a?to=bob", "PUT", "ten euros"),
        ("once", "/pay/b?to=bob", "POST", "ten euros"),
        ("once", "/pay/a?to=bob", "POST", "ten euros"),
        ("request", "/pay/a?to=bob", "POST", ""),
        ("prefix", "/pay/ab", "POST", "ten euros"),
        ("prefix", "/pay/a", "DELETE", ""),
    ],
)
def test_an_answer_is_good_for_nothing_that_was_not_shown(
    remit: Instance, upstreams: Upstreams, agent: Agent, scope: str, path: str, method: str, body: str
) -> None:
    first = agent.send("/pay/a?to=bob", "POST", "ten euros")
    approve(remit, "/pay/a", "--scope", scope)
    assert agent.answer(first).status == 200
    before = len(upstreams.seen)
    second = agent.send(path, method, body)
    again = asked.waiting(remit, path.partition("?")[0])
    assert len(upstreams.seen) == before
    remit.cli("approvals", "deny", again["id"], "--note", "no")
    answer = agent.answer(second)
    assert (answer.status, answer.reason) == (403, "approval_denied")
    assert len(upstreams.seen) == before


@pytest.mark.parametrize("scope", ["once", "request"])
def test_an_answer_is_good_for_no_other_headers(
    remit: Instance, upstreams: Upstreams, agent: Agent, scope: str
) -> None:
    """What a header says can be the whole request: where to (WebDAV's Destination), from where (S3's copy source)."""
    first = agent.send("/pay/copy", "PUT", x_amz_copy_source="/mine/a", destination="/harmless", user_agent="one")
    shown = asked.waiting(remit, "/pay/copy")
    assert shown["question"]["headers"] == ["destination: /harmless", "x-amz-copy-source: /mine/a"]
    assert "x-amz-copy-source: /mine/a" in remit.cli("approvals", "show", shown["id"]).stdout
    approve(remit, "/pay/copy", "--scope", scope, *(("--uses", "2") if scope == "request" else ()))
    assert agent.answer(first).status == 200
    if scope == "request":  # what clients change from one try to the next is not what was asked
        again = agent.send("/pay/copy", "PUT", x_amz_copy_source="/mine/a", destination="/harmless", user_agent="two")
        assert agent.answer(again).status == 200
    before = len(upstreams.seen)
    second = agent.send("/pay/copy", "PUT", x_amz_copy_source="/secret/b", destination="/public")
    remit.cli("approvals", "deny", asked.waiting(remit, "/pay/copy")["id"])
    assert agent.answer(second).reason == "approval_denied"
    assert len(upstreams.seen) == before


def test_an_answer_to_one_task_is_good_for_no_other(remit: Instance, upstreams: Upstreams, agent: Agent) -> None:
    first = agent.send("/pay/mine")
    approve(remit, "/pay/mine", "--scope", "prefix")
    assert agent.answer(first).status == 200
    assert agent.ask("/pay/mine/below").status == 200  # by the fast check: nobody is asked again
    with asked.agent(remit, upstreams) as other:
        number = other.send("/pay/mine")
        again = asked.waiting(remit, "/pay/mine")
        assert len(upstreams.reached("/pay/mine")) == 1
        remit.cli("approvals", "deny", again["id"])
        assert other.answer(number).reason == "approval_denied"


def test_what_must_be_asked_each_time_is_asked_each_time(remit: Instance, upstreams: Upstreams, agent: Agent) -> None:
    first = agent.send("/each/one")
    shown = asked.waiting(remit, "/each/one")
    assert [offer["scope"] for offer in shown["offers"]] == ["once"]
    refused = remit.cli("approvals", "approve", shown["id"], "--scope", "prefix", check=False)
    assert refused.returncode == 2
    approve(remit, "/each/one")
    assert agent.answer(first).status == 200
    second = agent.send("/each/one")
    remit.cli("approvals", "deny", asked.waiting(remit, "/each/one")["id"])
    assert agent.answer(second).reason == "approval_denied"
    assert len(upstreams.reached("/each/one")) == 1


def test_a_policy_holds_and_what_is_denied_is_not_shown_again(
    remit: Instance, upstreams: Upstreams, agent: Agent
) -> None:
    assert agent.ask("/v1/small").status == 200
    number = agent.send("/v1/large")
    shown = asked.waiting(remit, "/v1/large")
    assert shown["question"]["reasons"] == ["policy large: large things are looked at"]
    remit.cli("approvals", "deny", shown["id"], "--note", "too large")
    assert "too large" in agent.answer(number).body
    assert agent.ask("/v1/large").reason == "approval_denied"  # at once: the same question
    assert upstreams.reached("/v1/large") == []


def test_what_nothing_covers_is_asked_about_and_carries_no_credential(
    remit: Instance, upstreams: Upstreams, agent: Agent
) -> None:
    number = agent.send("/elsewhere")
    shown = asked.waiting(remit, "/elsewhere")
    assert (shown["question"]["capability"], shown["question"]["credential"]) == ("(uncovered)", None)
    approve(remit, "/elsewhere")
    answer = agent.answer(number)
    # A human allows a request, never an address that is not dialled: this upstream is on loopback.
    assert (answer.status, answer.reason) == (403, "address_refused")
    assert upstreams.reached("/elsewhere") == []


def refusals(remit: Instance, below: str) -> list[dict[str, object]]:
    found = remit.audit(reason="approvals_exceeded")
    return [record for record in found if str(record["path"]).startswith(below)]


def test_a_flood_is_refused_and_the_next_cell_is_not(remit: Instance, upstreams: Upstreams, agent: Agent) -> None:
    with asked.agent(remit, upstreams, "payer") as flooding:
        numbers = [flooding.send(f"/pay/flood/{n}") for n in range(30)]
        wait_for(lambda: len(refusals(remit, "/pay/flood/")) == 22, "the others to be refused")
        assert agent.ask("/v1/next").status == 200
        number = agent.send("/pay/next")
        approve(remit, "/pay/next")
        assert agent.answer(number).status == 200
        mine = [one for one in asked.approvals(remit) if one["question"]["path"].startswith("/pay/flood/")]
        assert len(mine) == 8
        for one in mine:
            remit.cli("approvals", "deny", one["id"])
        reasons = Counter(flooding.answer(number).reason for number in numbers)
    assert reasons == {"approval_denied": 8, "approvals_exceeded": 22}
    assert [one for one in upstreams.seen if one["path"].startswith("/pay/flood/")] == []


def test_many_of_one_request_are_one_question_and_one_use_lets_one_through(
    remit: Instance, upstreams: Upstreams, agent: Agent
) -> None:
    numbers = [agent.send("/pay/same") for _ in range(5)]
    first = asked.waiting(remit, "/pay/same")
    approve(remit, "/pay/same")
    wait_for(lambda: upstreams.reached("/pay/same"), "one is let through")
    second = wait_for(
        lambda: [o for o in asked.approvals(remit) if o["question"]["path"] == "/pay/same" and o["id"] != first["id"]],
        "the others ask again",
    )
    assert len(second) == 1
    remit.cli("approvals", "deny", second[0]["id"])
    answers = Counter((answer.status, answer.reason) for answer in map(agent.answer, numbers) if answer.status != 200)
    assert answers == {(403, "approval_denied"): 4}
    assert len(upstreams.reached("/pay/same")) == 1


def test_a_revoked_task_waits_no_longer(remit: Instance, upstreams: Upstreams, agent: Agent) -> None:
    agent.send("/pay/revoked")
    shown = asked.waiting(remit, "/pay/revoked")
    remit.cli("revoke", "task", shown["question"]["task"])
    wait_for(
        lambda: [
            one for one in asked.approvals(remit, "--all") if one["id"] == shown["id"] and one["state"] == "withdrawn"
        ],
        "it is withdrawn",
    )
    refused = remit.cli("approvals", "approve", shown["id"], check=False)
    assert refused.returncode == 5
    assert "is withdrawn already" in refused.stderr
    assert upstreams.reached("/pay/revoked") == []


def test_four_eyes_are_two_people(remit: Instance, upstreams: Upstreams) -> None:
    remit.cli("operator", "add", "second", "--role", "approver")
    token = remit.cli("operator", "token", "second").stdout.strip()
    with asked.agent(remit, upstreams, "eyes") as made:
        number = made.send("/pay/eyes")
        shown = asked.waiting(remit, "/pay/eyes")
        refused = remit.cli("approvals", "approve", shown["id"], check=False)
        assert refused.returncode == 5
        assert "wants another person" in refused.stderr
        remit.environment["REMIT_TOKEN"] = token
        try:
            assert json.loads(remit.cli("whoami", "--json").stdout)["name"] == "second"
            approve(remit, "/pay/eyes")
            forbidden = remit.cli("revoke", "task", shown["question"]["task"], check=False)
            assert "this takes the right to change" in forbidden.stderr
        finally:
            del remit.environment["REMIT_TOKEN"]
        assert made.answer(number).status == 200
    (permit,) = [r for r in remit.audit(decision="permit") if r["path"] == "/pay/eyes"]
    assert permit["approved_by"] == "second"


def test_what_an_agent_writes_never_reaches_a_terminal_raw(remit: Instance, agent: Agent) -> None:
    number = agent.send("/pay/odd?x=%1B]0;owned%07<b>%E2%80%AEgnp")
    shown = asked.waiting(remit, "/pay/odd")
    for command in (("approvals", "show", shown["id"]), ("approvals", "list")):
        printed = remit.cli(*command).stdout
        assert printed.replace("\n", "").isprintable()
        assert printed.isascii()
    listed = remit.cli("approvals", "list", "--json").stdout.splitlines()
    assert [json.loads(line) for line in listed] == asked.approvals(remit)
    remit.cli("approvals", "deny", shown["id"])
    assert agent.answer(number).reason == "approval_denied"


def test_explain_says_that_a_human_is_asked(remit: Instance, upstreams: Upstreams) -> None:
    url = f"https://{API}:{upstreams.https_port}/pay/x"
    told = json.loads(remit.cli("explain", "--role", "asker", "--json", "GET", url).stdout)
    assert (told["decision"], told["reason"], told["detail"]) == ("hold", "approval_required", "capability paid asks")
    assert [step["outcome"] for step in told["steps"] if step["step"] == "approval"] == ["stop"]


def test_explain_knows_the_grants_of_a_task(remit: Instance, upstreams: Upstreams, agent: Agent) -> None:
    number = agent.send("/pay/known")
    grant: Any = approve(remit, "/pay/known", "--scope", "prefix")["grant"]
    assert agent.answer(number).status == 200

    def told(path: str) -> tuple[str, str | None]:
        url = f"https://{API}:{upstreams.https_port}{path}"
        said = json.loads(remit.cli("explain", "--task", grant["task"], "--json", "GET", url).stdout)
        return said["decision"], said["grant"]

    assert told("/pay/known/below") == ("permit", grant["id"])
    assert told("/pay/unknown") == ("hold", None)
    remit.cli("approvals", "revoke", grant["id"])
    assert told("/pay/known/below") == ("hold", None)


def test_the_log_is_whole_after_all_that(remit: Instance) -> None:
    assert remit.cli("audit", "verify").stdout.startswith("ok")


@pytest.mark.parametrize("scope", ["once", "request"])
def test_a_grant_that_is_taken_back_ends_what_is_open_under_it_and_nothing_else(
    remit: Instance, upstreams: Upstreams, agent: Agent, scope: str
) -> None:
    """Also one that is used up: its only use is still open."""
    one, other = f"/stream/{scope}-one", f"/stream/{scope}-other"
    numbers, grants = dict[str, int](), dict[str, str]()
    for path in (one, other):
        numbers[path] = agent.send(path)
        grants[path] = str(dict(approve(remit, path, "--scope", scope)["grant"])["id"])  # type: ignore[call-overload]
        wait_for(lambda path=path: upstreams.reached(path), f"{path} is open")
    remit.cli("approvals", "revoke", grants[one])
    agent.answer(numbers[one])
    assert agent.ask("/v1/after").status == 200
    assert numbers[other] not in agent.answered, "what is open under another grant goes on"
    (revoked,) = [r for r in remit.audit(kind="approval") if r.get("grant") == grants[one] and "flows_closed" in r]
    assert revoked["flows_closed"] == 1
    remit.cli("approvals", "revoke", grants[other])
    agent.answer(numbers[other])


def test_the_end_of_a_grant_is_the_end_of_what_is_open_under_it(
    remit: Instance, upstreams: Upstreams, agent: Agent
) -> None:
    number = agent.send("/stream/short")
    approve(remit, "/stream/short", "--scope", "request", "--for", "4s")
    wait_for(lambda: upstreams.reached("/stream/short"), "the stream is open")
    agent.answer(number)
    assert [r for r in remit.audit(kind="approval") if r.get("action") == "grant.expired"]


TRIED = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: tried}}
spec: {{capabilities: [paid], mode: {mode}}}
"""


def test_a_role_that_begins_to_observe_lets_go_what_is_held_and_gives_it_nothing(
    remit: Instance, upstreams: Upstreams
) -> None:
    with asked.agent(remit, upstreams, "tried") as agent:
        allowed = agent.send("/pay/allowed")
        approve(remit, "/pay/allowed", "--scope", "request")
        assert agent.answer(allowed).status == 200
        held = agent.send("/pay/held")
        asked.waiting(remit, "/pay/held")
        assert upstreams.reached("/pay/held") == []

        remit.apply(TRIED.format(mode="observe"))
        try:
            assert agent.answer(held).status == 200
            assert agent.ask("/pay/unasked").status == 200, "nobody is asked"
            assert agent.ask("/pay/allowed").status == 200
        finally:
            remit.apply(TRIED.format(mode="enforce"))
        again = agent.send("/pay/again")
        asked.waiting(remit, "/pay/again")
        approve(remit, "/pay/again")
        assert agent.answer(again).status == 200

    for path in ("/pay/held", "/pay/unasked"):
        (seen,) = upstreams.reached(path)
        assert "authorization" not in seen["headers"], "what a human did not allow carries no credential"
        (permit,) = [r for r in remit.audit(host=API, decision="permit") if r["path"] == path]
        assert (permit["would_deny"], permit["credential"]) == ("approval_required", None)
    assert "/pay/unasked" not in [one["question"]["path"] for one in asked.approvals(remit, "--all")]
    for seen in upstreams.reached("/pay/allowed"):
        assert seen["headers"]["authorization"] == f"Bearer {SECRET}", "what a human allowed has its credential"
    permits = [r for r in remit.audit(host=API, decision="permit") if r["path"] == "/pay/allowed"]
    assert [("would_deny" in r, r["approved_by"] != "") for r in permits] == [(False, True)] * 2
