"""A machine on which `remit up` cannot work, or stops working: one clear error with a hint, and nothing lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from governed import SECRET, manifests
from instance import REMIT, Instance, asking, refused, wait_for
from upstreams import NAMES, Upstreams

pytestmark = pytest.mark.xdist_group("lifecycle")

DISK = "64m"


@pytest.fixture
def bare() -> Iterator[Instance]:
    """An instance that has never been up."""
    instance = Instance(hosts={}, ca=None)
    try:
        yield instance
    finally:
        instance.down()


def test_a_taken_port_is_named_and_nothing_stays_behind(bare: Instance) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        bare.environment["REMIT_API_PORT"] = port
        refused(bare, 6, f"127.0.0.1:{port}", "in use", "api_port")
        doctor = bare.cli("doctor", "--json", check=False)
    checks = {one["check"]: one for one in map(json.loads, doctor.stdout.splitlines())}
    assert doctor.returncode == 1
    assert not checks["API port"]["ok"]
    assert "REMIT_API_PORT" in checks["API port"]["hint"]
    assert not [path for path in bare.run_dir.rglob("*") if path.is_socket() or path.name == "supervisor.json"]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("REMIT_API_PORT", "many", "not a whole number"),
        ("REMIT_API_PORT", "70000", "no port"),
        ("REMIT_NODE_LEASE_S", "-1", "not more than 0"),
        ("REMIT_STATIC_HOSTS", "api.example", "not a table"),
        ("REMIT_CONFIG", "/nowhere/config.toml", "/nowhere/config.toml"),
    ],
)
def test_a_setting_of_the_wrong_shape_is_named(bare: Instance, variable: str, value: str, said: str) -> None:
    bare.environment[variable] = value
    refused(bare, 2, variable.removeprefix("REMIT_").lower() if variable != "REMIT_CONFIG" else variable, said)


@pytest.mark.parametrize(
    ("text", "said"), [("api_port = = 1", "line 1"), ("api_prot = 1", "unknown setting api_prot"), ("\0", "config")]
)
def test_a_configuration_file_with_a_mistake_is_named(bare: Instance, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    bare.environment["REMIT_CONFIG"] = str(tmp_path / "config.toml")
    refused(bare, 2, str(tmp_path / "config.toml"), said)


def test_a_state_directory_that_cannot_be_written_is_named(bare: Instance, tmp_path: Path) -> None:
    for directory in (Path("/sys/remit"), tmp_path / "file" / "state"):
        (tmp_path / "file").touch()
        bare.environment["REMIT_STATE_DIR"] = str(directory)
        refused(bare, 6, str(directory.parent), "REMIT_STATE_DIR")


def test_the_state_of_another_layout_is_left_alone(bare: Instance) -> None:
    bare.state.mkdir()
    (bare.state / "version").write_text("99\n")
    refused(bare, 6, "another version", "layout 99")
    assert sorted(path.name for path in bare.state.iterdir()) == ["version"]


@pytest.mark.parametrize(
    "content", [None, "", "-----BEGIN CERTIFICATE-----\\nbm90IG9uZQ==\\n-----END CERTIFICATE-----\\n"]
)
def test_an_upstream_ca_file_without_a_certificate_is_named(
    bare: Instance, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    bare.environment["REMIT_UPSTREAM_CA_FILES"] = str(file)
    refused(bare, 6, str(file), "upstream_ca_files")


def test_a_missing_tool_is_named_by_up_and_by_doctor(bare: Instance) -> None:
    # /dev/null over the program, in a mount namespace of this command's own: as if the package were not installed.
    hide = 'mount --bind /dev/null "$(command -v bwrap)" && exec "$@"'

    def without(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", hide, "sh", str(REMIT), *arguments],
            capture_output=True, text=True, timeout=60, env=bare.environment,
        )  # fmt: skip

    up = without("up", "--detach")
    assert up.returncode == 6, up.stderr
    assert "lacks bwrap" in up.stderr
    assert "hint: apt-get install bubblewrap" in up.stderr
    doctor = without("doctor", "--json")
    failed = {one["check"]: one for one in map(json.loads, doctor.stdout.splitlines()) if not one["ok"]}
    assert doctor.returncode == 1
    assert failed["bwrap"]["hint"] == "apt-get install bubblewrap"


@pytest.fixture
def small(upstreams: Upstreams) -> Iterator[Instance]:
    """An instance whose state is on a small file system of its own."""
    instance = Instance(hosts=dict.fromkeys(NAMES, "127.0.0.1"), ca=upstreams.ca)
    instance.environment["REMIT_AUDIT_SEGMENT_BYTES"] = str(64 << 10)
    instance.state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=711", "tmpfs", str(instance.state)]
    subprocess.run(mount, check=True)
    try:
        instance.up()
        instance.apply(manifests(upstreams))
        instance.secret("key", SECRET)
        yield instance
    finally:
        instance.cli("down", check=False)
        subprocess.run(["umount", str(instance.state)], check=True)
        instance.down()


def filled(path: Path) -> None:
    """Take what is left of the disk."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_a_full_disk_refuses_and_recovers_by_itself(small: Instance, upstreams: Upstreams) -> None:
    with asking(small, f"https://api.up.example:{upstreams.https_port}/v1/life") as ask:
        filler = small.state / "filler"

        def full() -> str:
            filled(filler)
            said = ask()
            return said if said != "200\n" else ""

        said = wait_for(full, "a refusal")
        assert said.startswith("503 "), said
        assert json.loads(said[4:])["reason"] == "audit_unavailable"
        reached = len(upstreams.seen)
        assert ask().startswith("503 ")
        assert len(upstreams.seen) == reached
        new = small.cli("run", "--role", "nothing", "--no-tty", "--", "true", check=False)
        assert new.returncode != 0
        assert new.stderr.count("error: ") == 1, new.stderr
        assert "hint: " in new.stderr, new.stderr
        filler.unlink()
        wait_for(lambda: ask() == "200\n", "requests to be permitted again")
    assert small.run("nothing", "echo", "again", check=True).stdout == "again\n"
    assert small.cli("audit", "verify").stdout.startswith("ok")
    assert json.loads(small.cli("status", "--json").stdout)["ok"]
    permitted = [one for one in small.audit(decision="permit") if one["path"] == "/v1/life"]
    assert len(permitted) >= 2


def revoked(instance: Instance) -> dict[str, bool]:
    """What is revoked, and whether that waits for the disk."""
    done = instance.cli("revocations", "--json", check=False)
    return {one["name"]: one["pending"] for one in map(json.loads, done.stdout.splitlines())}


def test_a_revocation_does_not_wait_for_a_full_disk(small: Instance, upstreams: Upstreams) -> None:
    """In force at once, told plainly, kept over a kill -9 of the control plane, stored when there is room again."""
    filler = small.state / "filler"
    with asking(small, f"https://api.up.example:{upstreams.https_port}/v1/life") as ask:
        assert ask() == "200\n"
        filled(filler)
        pending = []
        for name in ("basic", "query", "rpc", "sockets", "code", "api"):
            filled(filler)
            done = small.cli("revoke", "capability", name, "--json", check=False)
            assert done.returncode == 0, done.stderr
            if json.loads(done.stdout)["pending"]:
                pending.append(name)
        assert pending, "the disk was not full"
        told = small.cli("revoke", "capability", "api", check=False)
        assert "warning: it is in force and survives a restart, but is not recorded yet" in told.stderr
        assert revoked(small)["api"]
        os.kill(small.pids()["control"], signal.SIGKILL)
        assert not ask().startswith("200"), "not for a moment"
        filler.unlink()
        wait_for(lambda: revoked(small).get("api") is False, "it is stored")
        said = wait_for(lambda: (said := ask()).startswith("403") and said, "an answer with a reason")
        assert json.loads(said[4:])["reason"] == "capability_revoked"
    records = wait_for(lambda: [r for r in small.audit(kind="operator") if r.get("capability") == "api"], "a record")
    assert any(record["action"] == "revoke" for record in records)
    assert small.cli("audit", "verify").stdout.startswith("ok")


def test_sockets_that_a_dead_instance_left_stop_nothing(bare: Instance) -> None:
    """What a crash leaves: paths that nobody listens on. A command says so; `up` takes their place."""
    bare.up()
    places = [path for path in bare.run_dir.rglob("*") if path.is_socket()]
    assert len(places) >= 5
    bare.cli("down")
    for place in places:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(place))
    for command in ("ps", "status", "run --role nothing -- true"):
        refused(bare, 6, command=command)
    bare.up()
    assert json.loads(bare.cli("status", "--json").stdout)["ok"]


def test_a_start_that_is_interrupted_says_that_it_goes_on(bare: Instance) -> None:
    argv = [str(REMIT), "up", "--detach"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=bare.environment) as starting:
        assert starting.stderr is not None
        assert ": " in starting.stderr.readline(), "a part has begun"
        starting.send_signal(signal.SIGINT)
        said = starting.stderr.read()
    assert starting.returncode == 130
    assert "interrupted: the node goes on starting\nhint: remit status, or remit down\n" in said
    wait_for(lambda: bare.cli("status", check=False).returncode == 0, "the node is up all the same")
