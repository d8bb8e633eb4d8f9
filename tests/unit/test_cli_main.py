"""The entry of the command: the fast ones start without the slow imports, and a closed pipe is no error."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = ("typer", "httpx", "pydantic", "rich", "ruamel", "sqlalchemy", "fastapi", "grpc", "jwt", "cryptography")
HEAVY = ("remit.policy.specs", "remit.boundary.envoy", "ruamel", "regorus", "grpc", "cryptography", "sqlalchemy")
"""What only commands need that read manifests or start a node."""


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def test_the_entry_imports_nothing_slow() -> None:
    done = python(f"import sys, remit.cli.main; print([m for m in {SLOW!r} if m in sys.modules])")
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_fast_command_is_dispatched_before_anything_slow_is_imported() -> None:
    code = f"""
import sys, types, remit.cli, remit.cli.main
fake = types.ModuleType("remit.cli.run")
fake.main = lambda arguments: print(arguments, [m for m in {SLOW!r} if m in sys.modules]) or 7
sys.modules["remit.cli.run"] = remit.cli.run = fake
remit.cli.main.main()
"""
    done = python(code, "run", "--role", "devops", "--", "true", "--json")
    assert done.returncode == 7, done.stderr
    assert done.stdout == "['run', '--role', 'devops', '--', 'true', '--json'] []\n"


@pytest.mark.parametrize("name", ["run", "exec", "attach"])
def test_the_fast_commands_are_in_the_help(name: str) -> None:
    done = python("from remit.cli.main import main; main()", "--help")
    assert done.returncode == 0
    assert any(line.split()[:1] == [name] for line in done.stdout.splitlines())


@pytest.mark.parametrize("command", ["schema", "run --help"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_alphabet_without_a_character_shows_its_escape(command: str, encoding: str) -> None:
    done = python("from remit.cli.main import main; main()", *command.split(), PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_output_that_cannot_be_written_is_one_error() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from remit.cli.main import main; main()", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output cannot be written\ncause: No space left on device\nhint: ")
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize("where", ["remit.cli.run.main", "remit.cli.commands.application"])
def test_an_interruption_is_an_exit_code_without_a_traceback(where: str) -> None:
    module, _, name = where.rpartition(".")
    code = f"import {module} as m\ndef stopped(_=()): raise KeyboardInterrupt\nm.{name} = stopped\n"
    done = python(code + "from remit.cli.main import main; main()", "run" if name == "main" else "version")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("command", "where"), [("version", "remit.cli.commands.invoke"), ("run", "remit.cli.run.main")]
)
def test_a_fault_of_ours_is_one_error_without_a_traceback(command: str, where: str) -> None:
    module, _, name = where.rpartition(".")
    code = f"import {module} as m\ndef broken(_): raise KeyError('headers')\nm.{name} = broken\n"
    done = python(code + "from remit.cli.main import main; main()", command)
    assert done.returncode == 1
    assert re.match(r"error: a fault of remit itself \(KeyError: 'headers'\)\nhint: .*\n$", done.stderr), done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", "from remit.cli.main import main; main()", "schema"],
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["ps", "down", "audit list", "approvals list", "secret list"])
def test_a_command_does_not_wait_for_the_imports_of_others(command: str, tmp_path: Path) -> None:
    code = f"""
import sys, remit.cli.main
try: remit.cli.main.main()
except SystemExit: print([m for m in {HEAVY!r} if m in sys.modules])
"""
    settings = {"REMIT_STATE_DIR": str(tmp_path / "state"), "REMIT_RUN_DIR": str(tmp_path / "run")}
    done = python(code, *command.split(), **settings)
    assert done.stdout == "[]\n", done.stderr
    assert ("error: the control plane does not answer" in done.stderr) == (command != "down"), done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("p", "error: No such command 'p'."),
        ("audit lits", "(?s)error: No such command 'lits'.*hint: remit audit --help"),
    ],
)
def test_a_name_that_is_no_command_is_told(given: str, said: str) -> None:
    done = python("from remit.cli.main import main; main()", *given.split())
    assert done.returncode == 2, done.stderr
    assert re.match(said, done.stderr), done.stderr
