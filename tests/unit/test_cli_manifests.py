"""Manifests read from files: mistakes have a file and a line, and Rego beside a manifest takes its field's place."""

import io
import sys
from pathlib import Path

import pytest

from remit.cli import manifests as reading
from remit.core.errors import Invalid, NotFound
from remit.policy.manifests import ManifestError

POLICY = """\
apiVersion: remit.dev/v1alpha1
kind: Policy
metadata: {name: quiet}
spec:
  file: quiet.rego  # beside this file
  everywhere: true
"""
REGO = 'package remit.quiet\n\ndeny contains {"msg": "no"} if input.request.method == "DELETE"\n'


def test_rego_in_a_file_takes_the_place_of_its_field(tmp_path: Path) -> None:
    (tmp_path / "quiet.rego").write_text(REGO)
    (tmp_path / "policy.yaml").write_text(POLICY)
    (document,) = reading.read([str(tmp_path)])
    assert document.raw["spec"] == {"rego": REGO, "everywhere": True}
    assert document.line(("spec", "everywhere")) == 6


@pytest.mark.parametrize("spec", ["{file: quiet.rego}", '{"everywhere": false, "file": "quiet.rego"}'])
def test_rego_in_a_file_works_in_flow_style(tmp_path: Path, spec: str) -> None:
    (tmp_path / "quiet.rego").write_text(REGO)
    text = f"apiVersion: remit.dev/v1alpha1\nkind: Policy\nmetadata: {{name: quiet}}\nspec: {spec}\n"
    (tmp_path / "policy.yaml").write_text(text)
    (document,) = reading.read([str(tmp_path / "policy.yaml")])
    assert document.raw["spec"]["rego"] == REGO


@pytest.mark.parametrize("path", ["../quiet.rego", "/etc/passwd", "a/../../quiet.rego"])
def test_rego_outside_the_manifests_directory_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY.replace("quiet.rego", path))
    with pytest.raises(Invalid, match=r"policy\.yaml:5: spec\.file: expected a path below"):
        reading.read([str(tmp_path)])


def test_a_missing_rego_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    with pytest.raises(NotFound, match=r"quiet\.rego"):
        reading.read([str(tmp_path)])


def test_only_a_policy_has_a_file(tmp_path: Path) -> None:
    (tmp_path / "role.yaml").write_text(
        "apiVersion: remit.dev/v1alpha1\nkind: Role\nmetadata: {name: a}\nspec:\n  file: x\n"
    )
    with pytest.raises(ManifestError, match=r"role\.yaml:5: spec\.file: unknown field"):
        reading.read([str(tmp_path)])


def test_every_mistake_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(
            "apiVersion: remit.dev/v1alpha1\nkind: Role\nmetadata: {name: x}\nspec:\n  capabilites: []\n"
        )
    with pytest.raises(ManifestError) as caught:
        reading.read([str(tmp_path)])
    assert [(Path(p.file).name, p.line) for p in caught.value.problems] == [("a.yaml", 5), ("b.yaml", 5)]
    assert "did you mean capabilities?" in caught.value.detail


def test_stdin_is_read_where_a_dash_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b'{"apiVersion": "remit.dev/v1alpha1", "kind": "Role", "metadata": {"name": "x"}, "spec": {}}'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert [document.name for document in reading.read(["-"])] == ["x"]


def test_a_directory_without_manifests_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("file: x")
    with pytest.raises(Invalid, match="there is no manifest"):
        reading.read([str(tmp_path)])


def test_aliases_are_refused_before_anything_is_expanded(tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text("file: &a [x]\nb: [*a, *a]\n")
    with pytest.raises(ManifestError, match="aliases are not allowed"):
        reading.read([str(tmp_path)])


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match="not UTF-8"):
        reading.read([str(tmp_path)])


def test_what_the_control_plane_refuses_is_told_with_file_and_line(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    role = "apiVersion: remit.dev/v1alpha1\nkind: Role\nmetadata: {{name: {}}}\nspec:\n  capabilities: [x]\n"
    first.write_text(role.format("a"))
    second.write_text(role.format("b"))
    documents = reading.read([str(first), str(second)])
    told = "document[1]: spec.capabilities[0]: expected a name\ndocument[0]: no more\ndocument[7]: none"
    assert reading.located(told, documents).splitlines() == [
        f"{second}:5: spec.capabilities[0]: expected a name",
        f"{first}:1: no more",
        "document[7]: none",
    ]
