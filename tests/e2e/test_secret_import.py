"""Secrets imported from a file, an environment and a password manager's command, on a whole instance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance

pytestmark = pytest.mark.xdist_group("secret-lifecycle")

OP = """#!/bin/sh
printf '%s\\n' "$*" >> "$OP_LOG"
[ "$3" = "op://Work/GitHub/token" ] || { echo "[ERROR] no item" >&2; exit 1; }
printf %s value-of-op-881
"""


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    found = Instance(hosts={}, ca=None)
    try:
        found.up()
        yield found
    finally:
        found.down()


def names(instance: Instance) -> set[str]:
    return {json.loads(line)["name"] for line in instance.cli("secret", "list", "--json").stdout.splitlines()}


def test_a_file_is_imported_whole_or_not_at_all(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("GOOD_ONE='value-1-771'\nBROKEN=${GOOD_ONE}\n")
    done = instance.cli("secret", "import", "--from", str(file), check=False)
    assert done.returncode == 2 and ":2:" in done.stderr and "771" not in done.stderr
    assert names(instance) == set()
    file.write_text("GOOD_ONE='value-1-771'\nSECOND=\"value-2\\n771\"\nA_B=1\nA__B=2\n")
    assert (
        "would both be"
        not in instance.cli("secret", "import", "--from", str(file), "--only", "SECOND", "--dry-run").stderr
    )
    assert names(instance) == set()
    file.chmod(0o644)
    done = instance.cli("secret", "import", "--from", str(file), "--only", "GOOD_ONE", "--only", "SECOND")
    assert "can be read by others" in done.stderr and "771" not in done.stdout + done.stderr
    assert names(instance) == {"good-one", "second"}
    assert "771" not in json.dumps(instance.audit())


def test_the_environment_gives_only_what_is_named(instance: Instance) -> None:
    instance.environment["MY_TOKEN"] = "value-of-env-772"
    assert instance.cli("secret", "import", "--from", "env", check=False).returncode == 2
    done = instance.cli("secret", "import", "--from", "env", "--only", "MY_TOKEN", "--json")
    assert json.loads(done.stdout)["name"] == "my-token" and "772" not in done.stdout
    assert "path" not in names(instance)
    assert instance.cli("secret", "import", "--from", "env", "--only", "NOT_THERE", check=False).returncode == 4


def test_a_reference_is_read_with_op_and_its_value_is_no_argument(instance: Instance, tmp_path: Path) -> None:
    text = "GITHUB_TOKEN=op://Work/GitHub/token\n"
    saved = instance.environment["PATH"]
    done = instance.cli("secret", "import", "--from", "-", given=text, check=False)
    assert done.returncode == 6 and "op (1Password CLI) is not here" in done.stderr, done.stderr
    op = tmp_path / "op"
    op.write_text(OP)
    op.chmod(0o755)
    instance.environment |= {"PATH": f"{tmp_path}:{saved}", "OP_LOG": str(tmp_path / "log")}
    try:
        done = instance.cli("secret", "import", "--from", "-", given=text)
        assert "881" not in done.stdout + done.stderr
        assert (tmp_path / "log").read_text() == "read --no-newline op://Work/GitHub/token\n"
        assert "github-token" in names(instance)
        for wrong in ("op://Work/GitHub/other", "op://Work/$(id)/x", "op://Work/../../x;id", "op://--account"):
            done = instance.cli("secret", "import", "--from", "-", given=f"WRONG='{wrong}'\n", check=False)
            assert done.returncode in (2, 4), done.stderr
        assert len((tmp_path / "log").read_text().splitlines()) <= 3
        assert "wrong" not in names(instance)
    finally:
        instance.environment["PATH"] = saved
