"""What a shell completes is what `cli.run` reads, and names that the node knows."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import control_plane
import pytest
from typer.testing import CliRunner

from remit.cli import commands, completion, run


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("REMIT_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("REMIT_STATE_DIR", str(tmp_path / "state"))
    plane = control_plane.build(tmp_path)
    with control_plane.served(plane, tmp_path / "control/control.sock"):
        yield


def completed(line: str) -> list[str]:
    """What bash would be offered after `line`."""
    words = line.split(" ")
    environment = {"_REMIT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return CliRunner().invoke(commands.application(), [], prog_name="remit", env=environment).stdout.split()


@pytest.mark.parametrize("name", run.USAGE)
def test_every_option_of_a_fast_command_is_completed(name: str) -> None:
    listed = re.findall(r"^  (--[a-z-]+)(?:, (--[a-z-]+))?", run.USAGE[name], re.MULTILINE)
    assert {*completed(f"remit {name} --")} == {option for pair in listed for option in pair if option} | {"--help"}


def test_roles_are_completed_where_a_role_is_meant(node: None, tmp_path: Path) -> None:
    path = tmp_path / "remit.yaml"
    path.write_text("\n---\n".join(json.dumps(manifest) for manifest in control_plane.MANIFESTS))
    assert commands.invoke(["apply", "-f", str(path)]) == 0
    assert completed("remit run --role ") == ["devops"]
    assert completed("remit run --role d") == ["devops"]
    assert completed("remit explain --role x") == []


def test_a_node_that_does_not_answer_completes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMIT_RUN_DIR", str(tmp_path))
    assert completion.roles("") == []
    assert completed("remit exec ") == []
