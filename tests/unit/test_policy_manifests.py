"""Every mistake in a manifest names its file, line and field, what was expected, and the nearest valid name."""

import json
from pathlib import Path

import jsonschema
import pytest

from remit.core.snapshot import Revoked
from remit.policy import compile as compiler
from remit.policy import manifests, snapshot, specs
from remit.policy.manifests import ManifestError

HEAD = "apiVersion: remit.dev/v1alpha1\n"
CAPABILITY = HEAD + "kind: Capability\nmetadata: {name: a}\nspec:\n  hosts: [a.com]\n"
CREDENTIAL = (
    HEAD + "kind: Credential\nmetadata: {name: k}\nspec:\n  hosts: [a.com]\n  inject: {header: {name: X-Key}}\n"
)
EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/**/*.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [1]\nb: *x", "f.yaml:2: YAML aliases are not allowed"),
        ("a: 1\na: 2", "f.yaml:2: not valid YAML: found duplicate key"),
        ("[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("- 1", "expected a manifest (a mapping), found list"),
        (HEAD + "kind: Rol\nmetadata: {name: a}\nspec: {}", "f.yaml:2: kind: expected one of Role, Capability, Credential, Policy; found 'Rol' (did you mean Role?)"),
        ("apiVersion: v1\nkind: Role\nmetadata: {name: a}\nspec: {}", 'f.yaml:1: apiVersion: expected "remit.dev/v1alpha1"'),
        (HEAD + "kind: Role\nmetadata: {name: A_b}\nspec: {}", "f.yaml:3: metadata.name:"),
        (CAPABILITY + "  methds: [GET]", "f.yaml:6: spec.methds: unknown field (did you mean methods?)"),
        (CAPABILITY + "  methods: [get]", "f.yaml:6: spec.methods[0]: expected an HTTP method in upper case"),
        (CAPABILITY + "  methods: [CONNECT]", "expected an HTTP method"),
        (CAPABILITY + "  ports: [0]", "f.yaml:6: spec.ports[0]:"),
        (CAPABILITY + "  paths: [/a/../b]", "expected a path without dot segments"),
        (CAPABILITY + "  addresses: [169.254.169.254/32]", "expected a range that can be dialled"),
        (CAPABILITY.replace("[a.com]", "['*']"), "a pattern that covers every host is not allowed"),
        (CAPABILITY.replace("[a.com]", "['*.com']"), "expected at least two labels after *."),
        (CAPABILITY.replace("[a.com]", "[0x7f.1]"), "expected a lower-case DNS name"),
        (CAPABILITY + "  credential: k\n  websocket: true", "a WebSocket cannot be scrubbed"),
        (CREDENTIAL.replace("X-Key", "Host"), "expected a header name that a credential may set"),
        (CREDENTIAL.replace("X-Key", "x-remit-pin"), "expected a header name that a credential may set"),
        (CREDENTIAL.replace("{name: X-Key}", "{name: X-Key, format: no}"), "expected printable text that contains {secret} once"),
        (CREDENTIAL + "  placeholder: {env: LD_PRELOAD, value: x}", "expected the name of an environment variable"),
        (HEAD + "kind: Role\nmetadata: {name: a}\nspec: {limits: {memory: 2Q}}", "expected a size such as 512Mi"),
        (CAPABILITY + "---\n" + CAPABILITY, "Capability a is already defined at f.yaml:3"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_where_it_stands(text: str, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        manifests.parse(text, "f.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "kind: Role\nmetadata: {name: r}\nspec: {capabilities: [b]}\n---\n" + CAPABILITY.replace("name: a", "name: bb"), "there is no Capability 'b' (did you mean bb?)"),
        (CAPABILITY + "  credential: k\n---\n" + CREDENTIAL.replace("a.com", "b.com"), "f.yaml:5: spec.hosts[0]: expected a host that credential k is pinned to (b.com), found a.com"),
        (CAPABILITY + "  credential: k\n  protocol: http\n---\n" + CREDENTIAL, "a credential never travels in the clear"),
        (HEAD + "kind: Policy\nmetadata: {name: p}\nspec: {rego: 'package other'}", 'expected a package that begins with "remit."'),
        (HEAD + "kind: Policy\nmetadata: {name: p}\nspec:\n  rego: |\n    package remit.p\n    import rego.v1\n    deny contains 1 if nope(1)", "could not find function nope"),
        (HEAD + "kind: Policy\nmetadata: {name: p}\nspec:\n  rego: |\n    package remit.p\n    import rego.v1\n    deny contains 1 if http.send({})", "http.send is not available"),
    ],
)  # fmt: skip
def test_mistakes_across_documents_are_found_and_compile_to_refusals(text: str, said: str) -> None:
    documents = manifests.parse(text, "f.yaml")
    assert any(said in str(problem) for problem in compiler.check(documents))
    rules = compiler.rules(documents)
    broken = [*rules.roles.values(), *rules.capabilities.values(), *rules.policies.values()]
    assert any(item.invalid for item in broken) or "pinned" in said


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid_by_parser_and_by_schema(path: Path) -> None:
    documents = manifests.parse(path.read_text(), path.name)
    assert compiler.check(documents) == []
    for document in documents:
        jsonschema.validate(json.loads(json.dumps(document.raw)), manifests.schema(document.kind))


@pytest.mark.parametrize("kind", specs.KINDS)
def test_schemas_are_schemas(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(manifests.schema(kind))


def test_a_snapshot_travels_whole_and_shows_any_change() -> None:
    documents = manifests.parse(EXAMPLES[0].read_text(), "x")
    sent = snapshot.dump(
        epoch=3,
        documents=[dict(d.raw) for d in documents],
        tasks=[],
        revoked=Revoked(),
        keys={"k": b"x" * 32},
        sealed={},
    )
    received = snapshot.load(json.loads(json.dumps(sent)), None)
    assert received.rules == compiler.rules(documents)
    assert snapshot.load(sent, received).rules is received.rules
    with pytest.raises(manifests.Invalid, match="hash"):
        snapshot.load({**sent, "epoch": 4}, None)
