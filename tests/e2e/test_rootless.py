"""The same node for an ordinary user: everything works but the limits, whose absence is said."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import REMIT

pytestmark = pytest.mark.xdist_group("lifecycle")

USER = 64777
ENTER = """
set -e
mount --make-rprivate /
# The interpreter may live in a directory that only root can enter: show this user just the interpreter.
case "$PREFIX" in /root/*)
  mkdir -p "$HOME/prefix"; mount --bind "$PREFIX" "$HOME/prefix"
  mount -t tmpfs -o mode=755 none /root; mkdir -p "$PREFIX"; mount --move "$HOME/prefix" "$PREFIX";;
esac
exec setpriv --reuid $USER_ID --regid $USER_ID --clear-groups --inh-caps=-all sh -c "$1"
"""
SCRIPT = """
set -e
remit up --detach
remit apply -f -
remit run --role agent -- sh -c 'id -u; touch ~/file /tmp/file; curl -sS -m 10 https://api.demo.example/v1/x; exit 3' || echo "code $?"
remit run --role agent --workspace "$HOME/work" -- sh -c 'cat given; echo made > made'
remit diff "$(remit ps --all --json | tail -1 | sed 's/.*"id":"\\(t-[a-z2-7]*\\)".*/\\1/')" || true
remit audit verify
"""
CREDENTIAL = """
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {name: key}
spec:
  hosts: [api.demo.example]
  inject: {header: {name: Authorization, format: "Bearer {secret}"}}
"""
ROLE = "apiVersion: remit.dev/v1alpha1\nkind: Role\nmetadata: {name: agent}\nspec: {}\n"


@pytest.fixture
def home() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="rmtr-"))
    (directory / "work").mkdir()
    (directory / "work/given").write_text("given\n")
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(directory)], check=True)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def as_user(home: Path, script: str, given: str = "") -> subprocess.CompletedProcess[str]:
    environment = {
        "HOME": str(home),
        "PATH": f"{REMIT.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "PREFIX": sys.base_prefix,
        "USER_ID": str(USER),
        "REMIT_STATE_DIR": str(home / "state"),
        "REMIT_RUN_DIR": str(home / "run"),
        "LANG": "C.UTF-8",
    }
    argv = ["unshare", "-m", "bash", "-c", ENTER, "enter", script]
    return subprocess.run(argv, input=given, env=environment, capture_output=True, text=True, timeout=100)


def test_an_ordinary_user_gets_a_governed_cell_and_is_told_what_is_missing(home: Path) -> None:
    try:
        done = as_user(home, SCRIPT, ROLE)
        assert done.returncode == 0, done.stderr
        assert '"reason": "no_capability"' in done.stdout
        assert "code 3" in done.stdout
        assert "given" in done.stdout
        assert "ok:" in done.stdout
        assert "cannot hold the limit" in done.stderr
        assert not (home / "work/made").exists()
    finally:
        as_user(home, "remit down")


def test_an_ordinary_user_has_an_openbao_too(home: Path) -> None:
    again = "remit down; remit up --detach --secrets openbao && remit secret test key"
    try:
        done = as_user(
            home,
            f"set -e; remit up --detach --secrets openbao; remit apply -f -; printf real-71-value | remit secret put key; {again}",
            CREDENTIAL,
        )
        assert done.returncode == 0, done.stderr
        assert "openbao secret/remit/key" in done.stdout
        assert all(file.stat().st_mode & 0o077 == 0 for file in (home / "state/openbao").iterdir() if file.is_file())
    finally:
        as_user(home, "remit down")
