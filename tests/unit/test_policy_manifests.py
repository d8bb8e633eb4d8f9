"""Every mistake in a manifest names its file, line and field, what was expected, and the nearest valid name."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from remit.core.errors import Invalid
from remit.policy import compile as compiler
from remit.policy import manifests, specs
from remit.policy.manifests import ManifestError, Problem

HEAD = "apiVersion: remit.dev/v1alpha1\n"
CAPABILITY = HEAD + "kind: Capability\nmetadata: {name: a}\nspec:\n  hosts: [a.com]\n"
CREDENTIAL = (
    HEAD + "kind: Credential\nmetadata: {name: k}\nspec:\n  hosts: [a.com]\n  inject: {header: {name: X-Key}}\n"
)
ROLE = HEAD + "kind: Role\nmetadata: {name: r}\nspec:\n"
POLICY = HEAD + "kind: Policy\nmetadata: {name: p}\nspec:\n  rego: |\n    package remit.p\n"
EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/**/*.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CAPABILITY + "  methods: [get]", 'f.yaml:6: spec.methods[0]: expected an HTTP method in upper case, found "get" (did you mean GET?)'),
        (CAPABILITY + "  methods: [GET,\n    TRACE]", "f.yaml:7: spec.methods[1]: expected a method that is forwarded"),
        (CAPABILITY + "  methods: [trace]", "spec.methods[0]: expected a method that is forwarded"),
        (CAPABILITY + "  methds: [GET]", "f.yaml:6: spec.methds: unknown field (did you mean methods?)"),
        (CAPABILITY + "  ports: [0]", "f.yaml:6: spec.ports[0]: expected greater than or equal to 1, found 0"),
        (CAPABILITY + '  ports: ["80"]', 'spec.ports[0]: expected a whole number, found "80"'),
        (CAPABILITY + "  protocol: htps", 'spec.protocol: expected https or http or tcp, found "htps" (did you mean https?)'),
        (CAPABILITY + "  websocket: maybe", 'spec.websocket: expected true or false, found "maybe"'),
        (CAPABILITY + "  paths: []", "spec.paths: expected at least 1 of these, found 0"),
        (CAPABILITY + "  paths: [/a/../b]", "expected a path that servers agree on; this one has dotSegment"),
        (CAPABILITY + "  paths: [/a%2e%2e/b]", "found \"/a%2e%2e/b\""),
        (CAPABILITY + "  paths: [/%7euser]", "expected escapes in their normal form (RFC 3986 §6.2.2), found \"/%7euser\" (did you mean /~user?)"),
        (CAPABILITY + '  paths: ["/a?b=c"]', "expected a path pattern such as /repos/**, without query"),
        (CAPABILITY + "  paths: [/a/**/b]", "** stands only as the last segment"),
        (CAPABILITY + "  paths: [a]", "expected a path pattern such as /repos/**"),
        (CAPABILITY + "  paths: [/a;b]", "spec: expected allowAmbiguous: [parameters], without which /a;b never matches"),
        (CAPABILITY + "  allowAmbiguous: [dotSegment]", "spec.allowAmbiguous[0]: expected encodedSlash or"),
        (CAPABILITY + "  allow_ambiguous: [encodedSlash]", "spec.allow_ambiguous: unknown field (did you mean allowAmbiguous?)"),
        (CAPABILITY + "  addresses: [169.254.169.254/32]", "expected a range without 169.254.0.0/16, which is never dialled"),
        (CAPABILITY + "  addresses: [0.0.0.0/0]", "which is never dialled"),
        (CAPABILITY + "  addresses: [10.0.0.1/8]", "(did you mean 10.0.0.0/8?)"),
        (CAPABILITY + "  credential: k\n  websocket: true", "spec: expected no credential together with websocket: true"),
        (CAPABILITY + "  protocol: tcp", "spec: expected ports together with protocol: tcp"),
        (CAPABILITY + "  protocol: tcp\n  ports: [5432]\n  credential: k", "expected no credential together with protocol: tcp"),
        (CAPABILITY + "  protocol: tcp\n  ports: [5432]\n  methods: [GET]", "expected no methods together with protocol: tcp"),
        (CAPABILITY + "  tls: passthrough\n  credential: k", "expected no credential together with tls: passthrough: what is carried is not read"),
        (CAPABILITY + "  tls: passthrough\n  paths: [/a]", "expected no paths together with tls: passthrough"),
        (CAPABILITY + "  tls: passthrough\n  websocket: true", "expected no websocket together with tls: passthrough"),
        (CAPABILITY + "  protocol: http\n  tls: passthrough", "spec: expected protocol: https together with tls: passthrough"),
        (CAPABILITY.replace("[a.com]", "['*']"), "a pattern that covers every host is not allowed"),
        (CAPABILITY.replace("[a.com]", "['*.*']"), "a pattern that covers every host is not allowed"),
        (CAPABILITY.replace("[a.com]", "['*.com']"), "expected at least two labels after *."),
        (CAPABILITY.replace("[a.com]", "['*.1.2.3.4']"), "expected at least two labels after *."),
        (CAPABILITY.replace("[a.com]", "[proxy.remit.alt]"), "names what is inside a cell"),
        (CAPABILITY.replace("[a.com]", "[0x7f.1]"), "expected a lower-case DNS name"),
        (CAPABILITY.replace("[a.com]", "['*.A.com']"), 'found "*.A.com" (did you mean *.a.com?)'),
        (CAPABILITY.replace("[a.com]", "['[::1]']"), 'found "[::1]" (did you mean ::1?)'),
        (CAPABILITY.replace("[a.com]", "['a.com:443']"), "expected a lower-case DNS name"),
        (CAPABILITY.replace("[a.com]", "[169.254.169.254]"), "expected an address that can be dialled"),
        (CAPABILITY.replace("[a.com]", "a.com"), "spec.hosts: expected a list"),
        (CAPABILITY.replace("[a.com]", "[]"), "spec.hosts: expected at least 1 of these"),
        (CREDENTIAL.replace("X-Key", "Host"), "expected a header that a credential may set"),
        (CREDENTIAL.replace("X-Key", "x-remit-pin"), "expected a header that a credential may set"),
        (CREDENTIAL.replace("X-Key", "X-Envoy-Retry-On"), "expected a header that a credential may set"),
        (CREDENTIAL.replace("X-Key", "Transfer-Encoding"), "expected a header that a credential may set"),
        (CREDENTIAL.replace("X-Key", "x_key"), "expected a header that a credential may set"),
        (CREDENTIAL.replace("X-Key", "':path'"), "expected a header that a credential may set"),
        (CREDENTIAL.replace("{name: X-Key}", "{name: X-Key, format: no}"), "expected printable text that contains {secret} once, found \"no\" (did you mean Bearer {secret}?)"),
        (CREDENTIAL.replace("{name: X-Key}", "{name: X-Key, format: '{secret}{secret}'}"), "contains {secret} once"),
        (CREDENTIAL.replace("{name: X-Key}", '{name: X-Key, format: "a\\r\\nb: {secret}"}'), "expected printable text"),
        (CREDENTIAL + "  source: {}", "spec.source: expected exactly one of sealed, openbao, lease"),
        (CREDENTIAL + "  source: {openbao: {path: a/../b}}", "spec.source.openbao.path: expected text that matches"),
        (CREDENTIAL + "  source: {openbao: {path: 'a?version=1'}}", "spec.source.openbao.path: expected text that matches"),
        (CREDENTIAL + "  source: {lease: {engine: mysql, role: r}}", "spec.source.lease.engine: expected"),
        (CREDENTIAL.replace("{header: {name: X-Key}}", "{}"), "spec.inject: expected exactly one of header, basic, query"),
        (CREDENTIAL.replace("{header: {name: X-Key}}", "{basic: {username: a}, query: {parameter: k}}"), "expected exactly one of header, basic, query"),
        (CREDENTIAL.replace("{header: {name: X-Key}}", "{basic: {username: 'a:b'}}"), "spec.inject.basic.username: expected text that matches"),
        (CREDENTIAL.replace("{header: {name: X-Key}}", "{header: {nme: X}}"), "spec.inject.header.nme: unknown field (did you mean name?)"),
        *[(CREDENTIAL + f"  placeholder: {{env: {name}, value: x}}", "spec.placeholder.env: expected a variable for a credential")
          for name in ("LD_PRELOAD", "PATH", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "NODE_OPTIONS", "PYTHONPATH", "BASH_ENV", "GIT_SSH_COMMAND", "https_proxy", "REMIT_X", "A-B", "1A", "''")],
        (CREDENTIAL + "  placeholder: {env: A, value: 'a b'}", "expected 1 to 512 printable characters without spaces"),
        (ROLE + "  env: {A: 1}", 'spec.env.A: expected text, found 1 (did you mean "1"?)'),
        (ROLE + "  env: {LD_PRELOAD: x}", "spec.env.LD_PRELOAD: expected a variable that a role may set"),
        (ROLE + '  env: {A: "\\0"}', "spec.env.A: expected at most 4096 characters without NUL"),
        (ROLE + "  limits: {memory: 2Q}", "spec.limits.memory: expected a size such as 512Mi"),
        (ROLE + "  limits: {time: soon}", "spec.limits.time: expected a duration such as 90s"),
        (ROLE + "  limits: {cpu: true}", "spec.limits.cpu: expected a number, found true"),
        (ROLE + "  limits: {cpu: .nan}", "spec.limits.cpu: expected"),
        (ROLE + "  limits: {processes: 0}", "spec.limits.processes: expected greater than or equal to 1"),
        (ROLE + "  limits: {tme: 1h}", "spec.limits.tme: unknown field (did you mean time?)"),
        (ROLE.replace("name: r", "name: A_b") + "  {}", 'f.yaml:3: metadata.name: expected a name of 1 to 63 lower-case letters, digits and hyphens (RFC 1123), found "A_b" (did you mean a-b?)'),
        (ROLE.replace("{name: r}", "{}") + "  {}", "f.yaml:3: metadata.name: expected a value, found nothing"),
        (ROLE.replace("name: r", "name: r, namespace: x") + "  {}", "metadata.namespace: unknown field"),
        (HEAD + "kind: Rol\nmetadata: {name: a}\nspec: {}", 'f.yaml:2: kind: expected one of Role, Capability, Credential, Policy, found "Rol" (did you mean Role?)'),
        ("apiVersion: v1\nkind: Role\nmetadata: {name: a}\nspec: {}", 'f.yaml:1: apiVersion: expected "remit.dev/v1alpha1", found "v1"'),
        (HEAD + "kind: Role\nmetadata: {name: a}\nspc: {}", "f.yaml:4: spc: unknown field (did you mean spec?)"),
        (HEAD + "kind: Role\nmetadata: {name: a}", "spec: expected a mapping, found nothing"),
        ("- 1", "f.yaml:1: expected a manifest (a mapping), found a list"),
        ("just text", 'expected a manifest (a mapping), found "just text"'),
        (CAPABILITY + "---\n" + CAPABILITY, "f.yaml:9: metadata.name: Capability a is already defined at f.yaml:3"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_where_it_stands(text: str, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        manifests.parse(text, "f.yaml")
    assert said in str(caught.value)


def test_all_mistakes_of_a_text_come_at_once_and_each_can_be_taken_apart() -> None:
    with pytest.raises(ManifestError) as caught:
        manifests.parse(CAPABILITY + "  methods: [get]\n---\n" + ROLE + "  polices: []", "f.yaml")
    assert caught.value.problems == [
        Problem(file="f.yaml", line=6, field="spec.methods[0]", expected="expected an HTTP method in upper case", found='"get"', nearest="GET"),
        Problem(file="f.yaml", line=12, field="spec.polices", expected="unknown field", nearest="policies"),
    ]  # fmt: skip
    assert isinstance(caught.value, Invalid)
    assert caught.value.hint


def test_hostile_values_are_shown_escaped_and_short() -> None:
    with pytest.raises(ManifestError) as caught:
        manifests.parse(CAPABILITY + '  methods: ["\\e[2J\\n' + "x" * 5000 + '"]', "f.yaml")
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_status_labels_and_annotations_are_allowed_and_status_does_not_travel() -> None:
    text = ROLE.replace("{name: r}", "{name: r, labels: {a: b}, annotations: {c: d}}") + "  {}\nstatus: {x: 1}\n"
    (document,) = manifests.parse(text, "f.yaml")
    assert "status" not in document.raw
    assert (document.raw["apiVersion"], document.kind, document.name) == (specs.API_VERSION, "Role", "r")


def test_documents_through_the_api_have_a_number_instead_of_a_line() -> None:
    with pytest.raises(ManifestError, match=r"^request\[1\]: kind: expected one of"):
        manifests.from_json(
            [
                {"apiVersion": specs.API_VERSION, "kind": "Role", "metadata": {"name": "r"}, "spec": {}},
                {"apiVersion": specs.API_VERSION},
            ]
        )
    with pytest.raises(ManifestError, match=r"expected text|string"):
        manifests.from_json(
            [{"apiVersion": specs.API_VERSION, "kind": "Policy", "metadata": {"name": "r"}, "spec": {"rego": "\ud800"}}]
        )
    with pytest.raises(ManifestError, match="at most 2000"):
        manifests.from_json([{}] * 2001)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ROLE + "  capabilities: [b]\n---\n" + CAPABILITY.replace("name: a", "name: bb"), 'f.yaml:5: spec.capabilities[0]: expected the name of a Capability that exists, found "b" (did you mean bb?)'),
        (ROLE + "  policies: [b]", 'spec.policies[0]: expected the name of a Policy that exists, found "b"'),
        (ROLE + "  capabilities: [a, a]\n---\n" + CAPABILITY, "spec.capabilities[1]: expected each name once"),
        (CAPABILITY + "  credential: kk\n---\n" + CREDENTIAL, 'f.yaml:6: spec.credential: expected the name of a Credential that exists, found "kk"'),
        (CAPABILITY + "  credential: k\n---\n" + CREDENTIAL.replace("a.com", "b.com"), "f.yaml:5: spec.hosts[0]: expected a host that credential k is pinned to (b.com), found a.com"),
        (CAPABILITY.replace("[a.com]", "['*.a.com']") + "  credential: k\n---\n" + CREDENTIAL, "pinned to (a.com), found *.a.com"),
        (CAPABILITY.replace("[a.com]", "['*.a.com']") + "  credential: k\n---\n" + CREDENTIAL.replace("[a.com]", "['*.b.a.com']"), "pinned to (*.b.a.com), found *.a.com"),
        (CAPABILITY + "  credential: k\n  protocol: http\n---\n" + CREDENTIAL, "spec.protocol: expected https: a credential never travels in the clear"),
        (POLICY.replace("remit.p", "other"), 'expected a package below "remit"'),
        (POLICY + "    deny contains 1 if nope(1)", "f.yaml:7: spec.rego: expected a function that exists, found nope"),
        (POLICY + "    deny contains 1 if http.send({})", "f.yaml:7: spec.rego: expected no call of http.send"),
        (POLICY.replace("|\n    package remit.p\n", '"package remit.p\\ndeny contains nope(1)"'), "f.yaml:5: spec.rego: line 2: expected a function that exists"),
        (POLICY + "    deny := false\n---\n" + POLICY.replace("name: p", "name: q") + "    deny := false", "package of its own; remit.p is policy p's"),
        (ROLE + "  capabilities: [a, b]\n---\n" + CAPABILITY + "  credential: k\n---\n" + CAPABILITY.replace("name: a", "name: b") + "  credential: l\n---\n" + CREDENTIAL + "  placeholder: {env: T, value: x}\n---\n" + CREDENTIAL.replace("name: k", "name: l") + "  placeholder: {env: T, value: y}", "expected one placeholder for T; credentials k and l both set it"),
        (ROLE + "  capabilities: [a, b]\n---\n" + CAPABILITY + "---\n" + CAPABILITY.replace("name: a", "name: b") + "  credential: k\n---\n" + CREDENTIAL, "expected one of a and b: both cover the same with other credentials"),
        (ROLE + "  capabilities: [a, b]\n---\n" + CAPABILITY + "---\n" + CAPABILITY.replace("name: a", "name: b") + "  methods: [GET]\n  paths: [/x/**]\n  credential: k\n---\n" + CREDENTIAL, "expected b before a, which covers all of it and has no credential"),
        (CAPABILITY + "  credentials: [k, l]\n---\n" + CREDENTIAL + "---\n" + CREDENTIAL.replace("name: k", "name: l") + "  placeholder: {env: T}", "expected a placeholder of credential k, which requests would choose it by"),
        (CAPABILITY + "  credentials: [k, l]\n---\n" + CREDENTIAL + "  placeholder: {env: S, value: abcdefgh}\n---\n" + CREDENTIAL.replace("name: k", "name: l") + "  placeholder: {env: T, value: abcdefghi}", "expected placeholders apart; those of credentials k and l are not"),
        (CAPABILITY + "  credentials: [k, l]\n---\n" + CREDENTIAL + "  placeholder: {env: S, value: abc}\n---\n" + CREDENTIAL.replace("name: k", "name: l") + "  placeholder: {env: T}", "expected a placeholder of at least 8 characters"),
        (ROLE + "  capabilities: [a]\n  env: {T: x}\n---\n" + CAPABILITY + "  credential: k\n---\n" + CREDENTIAL + "  placeholder: {env: T, value: x}", "f.yaml:6: spec.env.T: expected T from one place"),
    ],
)  # fmt: skip
def test_mistakes_across_documents_are_found(text: str, said: str) -> None:
    problems = [str(problem) for problem in compiler.check(manifests.parse(text, "f.yaml"))]
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("hosts", "pinned"),
    [("a.com", "a.com"), ("b.a.com", "*.a.com"), ("*.a.com", "*.a.com"), ("*.b.a.com", "*.a.com"), ("10.1.2.3", "10.1.2.3")],
)  # fmt: skip
def test_a_capability_within_its_credentials_hosts_is_no_mistake(hosts: str, pinned: str) -> None:
    text = (
        CAPABILITY.replace("[a.com]", f"['{hosts}']")
        + "  credential: k\n---\n"
        + CREDENTIAL.replace("[a.com]", f"['{pinned}']")
    )
    assert compiler.check(manifests.parse(text, "f.yaml")) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_examples_are_valid_by_parser_and_by_schema(path: Path) -> None:
    documents = manifests.parse(path.read_text(), path.name)
    whole = [d for other in path.parent.glob("*.yaml") for d in manifests.parse(other.read_text(), other.name)]
    assert compiler.check(whole) == []
    for document in documents:
        jsonschema.validate(json.loads(json.dumps(document.raw)), manifests.schema(document.kind))


@pytest.mark.parametrize("kind", specs.KINDS)
def test_schemas_are_schemas_that_a_custom_resource_can_carry(kind: str) -> None:
    schema = manifests.schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["spec"]["type"] == "object"
    text = json.dumps(schema)
    assert not any(word in text for word in ('"$ref"', '"$defs"', '"anyOf"', '"const"', '"null"'))


def test_an_unknown_kind_has_no_schema() -> None:
    with pytest.raises(Invalid, match=r"there is no kind 'Capabilty' \(did you mean Capability\?\)"):
        manifests.schema("Capabilty")


@pytest.mark.parametrize(
    ("kind", "spec", "valid"),
    [
        ("Capability", {"hosts": ["a.com"], "methods": ["GET"]}, True),
        ("Capability", {"hosts": ["a.com"], "methods": ["get"]}, False),
        ("Capability", {"hosts": []}, False),
        ("Capability", {"hosts": ["a.com"], "ports": [70000]}, False),
        ("Capability", {"hosts": ["a.com"], "extra": 1}, False),
        (
            "Credential",
            {"hosts": ["a.com"], "inject": {"query": {"parameter": "k"}}, "source": {"sealed": {"name": "x"}}},
            True,
        ),
        ("Credential", {"hosts": ["a.com"], "inject": {"header": {"name": "X", "format": "none"}}}, False),
        ("Role", {"limits": {"cpu": 1.5, "memory": "1Gi"}, "env": {"A": "b"}}, True),
        ("Role", {"capabilities": ["UPPER"]}, False),
        ("Policy", {"rego": "package remit.x"}, True),
        ("Policy", {}, False),
    ],
)
def test_schema_and_parser_agree(kind: str, spec: dict[str, Any], valid: bool) -> None:
    document = {"apiVersion": specs.API_VERSION, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    assert jsonschema.Draft202012Validator(manifests.schema(kind)).is_valid(document) is valid
    try:
        manifests.from_json([document])
    except ManifestError:
        assert not valid
    else:
        assert valid


BUDGETED = """apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: r}
spec:
  budgets:
    - {requests: 100, per: 1h}
    - {bytesOut: 10Mi, time: 30m}
    - {requests: 5, per: 60m, each: task}
    - {requests: 1000, per: 1d, window: calendar}
"""


def test_budgets_become_accounts() -> None:
    (role,) = compiler.rules(manifests.parse(BUDGETED, "m")).roles.values()
    assert {one.account("role/r", "t-1"): one.limit for one in role.budgets} == {
        "role/r/requests/1h": 100,
        "role/r/bytesOut": 10 << 20,
        "role/r/task/t-1/time": 1800,
        "role/r/task/t-1/requests/1h": 5,
        "role/r/requests/1d/calendar": 1000,
    }


@pytest.mark.parametrize(
    ("written", "field", "expected"),
    [
        ("{per: 1h}", "spec.budgets[0]", "at least one of requests, bytesOut, bytesIn, time"),
        ("{time: 5m, per: 1h}", "spec.budgets[0]", "time without per"),
        ("{requests: 1, window: calendar}", "spec.budgets[0]", "per together with window"),
        ("{requests: 1, per: 7h, window: calendar}", "spec.budgets[0]", "divides a day"),
        ("{requests: 1, per: 400d}", "spec.budgets[0]", "at most 366 days"),
        ("{requests: -1}", "spec.budgets[0].requests", "greater than or equal to 0"),
        ("{bytesIn: 900000Ti}", "spec.budgets[0]", "fewer bytes"),
        ("{requests: 1, each: role}", "spec.budgets[0].each", "task"),
        ("{request: 1}", "spec.budgets[0].request", "unknown field"),
    ],
)
def test_a_budget_that_means_nothing_is_told_with_its_line(written: str, field: str, expected: str) -> None:
    text = BUDGETED.partition("    - ")[0] + f"    - {written}\n"
    with pytest.raises(manifests.ManifestError) as caught:
        manifests.parse(text, "m.yaml")
    problem = caught.value.problems[0]
    assert (problem.line, problem.field) == (6, field)
    assert expected in problem.expected


def test_two_budgets_in_one_account_are_refused_at_the_second() -> None:
    (problem,) = compiler.check(manifests.parse(BUDGETED + "    - {requests: 1, per: 60m}\n", "m"))
    assert (problem.line, problem.field) == (10, "spec.budgets[4].requests")
