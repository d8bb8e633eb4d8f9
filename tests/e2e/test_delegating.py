"""Delegation from inside a cell: an agent starts a narrower task and gets its result, with real cells and Envoy."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from governed import SECRET
from instance import Instance, wait_for
from upstreams import Upstreams

MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: lead}}
spec: {{capabilities: [api, nothing-much], delegates: [notifier, helper, greedy], maxDepth: 1}}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: helper}}
spec: {{capabilities: [post, look]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: nothing-much}}
spec: {{hosts: [nothing.up.example], paths: [/only/**]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: look}}
spec:
  hosts: [api.up.example]
  ports: [{https}]
  methods: [GET]
  paths: [/v1/look/**]
  credential: key
  addresses: [127.0.0.0/8]
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: notifier}}
spec: {{capabilities: [post]}}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: greedy}}
spec: {{capabilities: [everything]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: post}}
spec:
  hosts: [api.up.example]
  ports: [{https}]
  methods: [GET]
  paths: [/v1/post/**]
  credential: key
  addresses: [127.0.0.0/8]
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: everything}}
spec: {{hosts: [api.up.example], ports: [{https}], credential: key, addresses: [127.0.0.0/8]}}
"""
CURL = "curl -s --max-time 20 -o /dev/null -w %{http_code}"


@pytest.fixture(scope="module", autouse=True)
def roles(remit: Instance, upstreams: Upstreams) -> Iterator[None]:
    remit.apply(MANIFESTS.format(https=upstreams.https_port))
    yield


def lead(remit: Instance, script: str) -> str:
    done = remit.run("lead", "sh", "-c", script)
    return done.stdout + done.stderr


def test_a_child_does_its_part_and_its_parent_gets_the_result(remit: Instance, upstreams: Upstreams, api: str) -> None:
    done = remit.run("lead", "remit", "delegate", "--role", "notifier", "--", *CURL.split(), f"{api}/v1/post/1")
    assert (done.returncode, done.stdout) == (0, "200"), done.stderr
    (seen,) = [one for one in upstreams.seen if one["path"] == "/v1/post/1"]
    assert SECRET in str(seen["headers"])
    (record,) = [one for one in remit.audit(decision="permit") if one["path"] == "/v1/post/1"]
    (asked,) = [one for one in remit.audit(task=record["parent"]) if one.get("capability") == "(delegate)"]
    assert (asked["decision"], asked["host"], asked["path"]) == ("permit", "delegate.remit.alt", "/v1/tasks")
    (made,) = [one for one in remit.audit(task=record["task"]) if one.get("action") == "task.create"]
    assert (made["parent"], made["chain"], made["request"]) == (record["parent"], [record["parent"]], asked["id"])
    assert f"at the word of task {record['parent']}" in made["detail"]
    tree = remit.audit(tree=record["parent"])
    assert {one["task"] for one in tree} == {record["parent"], record["task"]}
    assert {record["id"], asked["id"], made["id"]} <= {one["id"] for one in tree}
    assert {one["task"] for one in remit.audit(tree=record["task"])} == {record["task"]}


def test_what_children_did_is_replayed_under_other_rules_for_their_parents(remit: Instance, api: str) -> None:
    path = "/v1/post/replayed"
    done = remit.run("lead", "remit", "delegate", "--role", "notifier", "--", *CURL.split(), f"{api}{path}")
    assert (done.returncode, done.stdout) == (0, "200"), done.stderr

    def replayed(capabilities: str) -> list[tuple[str, str, bool]]:
        spec = f"{{capabilities: [{capabilities}], delegates: [notifier, helper, greedy], maxDepth: 1}}"
        changed = f"apiVersion: remit.dev/v1alpha1\nkind: Role\nmetadata: {{name: lead}}\nspec: {spec}\n"
        told = remit.cli("policy", "replay", "--role", "notifier", "-f", "-", "--json", given=changed).stdout
        found = [json.loads(line) for line in told.splitlines()]
        return [(one["was"], one["now"], one["certain"]) for one in found if path in one["url"]]

    assert replayed("api, nothing-much") == []
    assert replayed("nothing-much") == [("permit post with key", "deny not_delegated", True)]


def test_output_exit_code_and_input_are_carried(remit: Instance) -> None:
    child = "cat; echo oh >&2; pwd; env | sort | grep -c . >/dev/null; exit 7"
    script = f"echo in | SECRET_OF_MINE=1 remit delegate --role=notifier --stdin -- sh -c '{child}; env'; echo code $?"
    done = remit.run("lead", "sh", "-c", script)
    assert done.stdout.splitlines() == ["in", "/home/agent", "code 7"]
    assert done.stderr == "oh\n"


def test_a_child_sees_nothing_of_its_parents_files_or_variables(remit: Instance) -> None:
    script = (
        "echo mine > /tmp/mine; echo mine > ~/mine; export MINE=mine; "
        "remit delegate --role notifier -- sh -c 'ls -A /tmp ~; env'"
    )
    assert "mine" not in lead(remit, script)


def test_a_signal_ends_the_child(remit: Instance) -> None:
    script = "remit delegate --role notifier -- sh -c 'echo up; exec sleep 1000' & read x; kill $!; wait $!; echo $?; sleep 1000"
    with remit.running("lead", "sh", "-c", script) as running:
        assert running.stdin is not None and running.stdout is not None
        assert running.stdout.readline() == "up\n"
        assert [one for one in remit.tasks() if one["role"] == "notifier"]
        running.stdin.write("\n")
        running.stdin.flush()
        assert running.stdout.readline() == "143\n"
        wait_for(lambda: not [one for one in remit.tasks() if one["role"] == "notifier"], "the child to have ended")


@pytest.mark.parametrize(
    ("asked", "said", "code"),
    [
        ("--role greedy -- true", "capability everything is not within role lead", 5),
        ("--role agent -- true", "role lead does not delegate to role agent", 5),
        ("--role nobody -- true", "nobody", 5),
        ("--role notifier --budget nonsense -- true", "nonsense", 2),
        ("--role notifier", "a role and a command are needed", 2),
        ("--role notifier --workspace / -- true", "no option '--workspace'", 2),
    ],
)
def test_what_may_not_be_is_refused_with_its_reason(remit: Instance, asked: str, said: str, code: int) -> None:
    done = remit.run("lead", "remit", "delegate", *asked.split())
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "hint: " in done.stderr


def test_a_role_that_delegates_to_nobody_is_told_so(remit: Instance) -> None:
    done = remit.run("notifier", "remit", "delegate", "--role", "notifier", "--", "true")
    assert done.returncode == 5
    assert "role notifier delegates to no role (spec.delegates) (no_capability, record " in done.stderr


def test_any_http_client_will_do(remit: Instance) -> None:
    body = json.dumps({"role": "notifier", "command": ["echo", "hello"]})
    done = remit.run(
        "lead", "curl", "-sN", "http://delegate.remit.alt/v1/tasks", "-H", "content-type: application/json", "-d", body
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["started", "stdout", "exit"], done.stdout
    assert lines[1]["data"] == "aGVsbG8K"


def test_a_child_ends_with_its_parent(remit: Instance) -> None:
    with remit.running(
        "lead", "remit", "delegate", "--role", "notifier", "--", "sh", "-c", "echo up; exec sleep 1000"
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        (child,) = [one for one in remit.tasks() if one["role"] == "notifier"]
        remit.cli("stop", child["parent"])
    wait_for(lambda: child["id"] not in [one["id"] for one in remit.tasks()], "the child to have ended")


def test_a_child_is_given_a_part_of_its_role_and_of_its_parents_budget(remit: Instance, api: str) -> None:
    get = f"{CURL} {api}/v1/post/x; echo; "
    script = f"remit delegate --role helper --capability post --budget 2 -- sh -c '{get * 3}{CURL} {api}/v1/look/x; echo; env | grep -c API_KEY'"
    done = remit.run("lead", "sh", "-c", script)
    assert done.stdout.split() == ["200", "200", "429", "403", "1"], done.stderr
    (record,) = [one for one in remit.audit(decision="deny") if one["path"] == "/v1/look/x"]
    assert (record["reason"], "look: was not given to this task" in record["detail"]) == ("no_capability", True)
    (made,) = [one for one in remit.audit(task=record["task"]) if one.get("action") == "task.create"]
    assert (made["capabilities"], made["budgets"]) == (["post"], ["requests=2"])


def test_a_task_that_was_given_little_hands_on_no_more(remit: Instance, api: str) -> None:
    given = ("--capability", "nothing-much")
    done = remit.run("lead", "remit", "delegate", "--role", "notifier", "--", "true", options=given)
    assert done.returncode == 5
    assert "capability post is not within role lead" in done.stderr
    done = remit.run("lead", *CURL.split(), f"{api}/v1/x", options=given)
    assert done.stdout == "403"
    refused = remit.run("lead", "true", options=("--capability", "nonsense"))
    assert refused.returncode == 2
    assert "role lead has no capability 'nonsense'" in refused.stderr


def test_only_the_child_may_use_what_its_parent_has_to_hand_on(remit: Instance, upstreams: Upstreams, api: str) -> None:
    remit.apply("""
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: editor}
spec: {capabilities: [nothing-much], delegable: [post], delegates: [notifier]}
""")
    own = remit.run("editor", "sh", "-c", f"env | grep -c API_KEY; {CURL} {api}/v1/post/own")
    assert own.stdout.split() == ["0", "403"]
    (record,) = [one for one in remit.audit(decision="deny") if one["path"] == "/v1/post/own"]
    assert record["reason"] == "delegate_only"
    done = remit.run("editor", "remit", "delegate", "--role", "notifier", "--", *CURL.split(), f"{api}/v1/post/handed")
    assert (done.returncode, done.stdout) == (0, "200"), done.stderr
    assert [one for one in upstreams.seen if one["path"] == "/v1/post/handed"]
    assert not [one for one in upstreams.seen if one["path"] == "/v1/post/own"]


def test_a_policy_holds_for_delegation_too(remit: Instance, upstreams: Upstreams) -> None:
    remit.apply("""
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: watched}
spec: {capabilities: [api], delegates: [notifier-too], policies: [alone]}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: notifier-too}
spec: {capabilities: [post], policies: [alone]}
---
apiVersion: remit.dev/v1alpha1
kind: Policy
metadata: {name: alone}
spec:
  rego: |
    package remit.alone
    import rego.v1
    deny contains {"msg": "work alone"} if input.capability.name == "(delegate)"
""")
    done = remit.run("watched", "remit", "delegate", "--role", "notifier-too", "--", "true")
    assert done.returncode == 5
    assert "work alone" in done.stderr
