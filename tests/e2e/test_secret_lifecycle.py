"""A secret's life on a whole instance: rotated under a cell that goes on, tried, expired, listed, accounted for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from governed import PLACEHOLDER, SECRET, governed
from instance import REMIT, Instance, asking, wait_for
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("secret-lifecycle")


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Upstreams:
    return Upstreams(tmp_path_factory.mktemp("up"))


@pytest.fixture(scope="module")
def instance(upstreams: Upstreams) -> Iterator[Instance]:
    with governed(upstreams) as found:
        yield found


def sent(upstreams: Upstreams, path: str) -> str:
    return str(upstreams.reached(path)[-1]["headers"]["authorization"])


def listed(instance: Instance) -> dict[str, object]:
    (found,) = [json.loads(line) for line in instance.cli("secret", "list", "--json").stdout.splitlines()]
    return dict(found)


def test_a_rotated_secret_is_used_at_the_next_request_of_a_task_that_goes_on(
    instance: Instance, upstreams: Upstreams
) -> None:
    url = f"https://api.up.example:{upstreams.https_port}/v1/rotated"
    with asking(instance, url) as ask:
        assert sent(upstreams, "/v1/rotated") == f"Bearer {SECRET}"
        instance.cli("secret", "rotate", "key", given="the-second-value-5512\n")
        assert ask() == "200\n"
        assert sent(upstreams, "/v1/rotated") == "Bearer the-second-value-5512"
        instance.cli("secret", "rotate", "key", given="the-third-value-5513")
        assert ask() == "200\n"
        assert sent(upstreams, "/v1/rotated") == "Bearer the-third-value-5513"
    found = listed(instance)
    assert (found["name"], found["version"], found["state"]) == ("key", 3, "ok")
    assert found["last_used"]
    text = json.dumps(instance.audit()) + instance.cli("secret", "list").stdout + instance.cli("status").stdout
    assert "-value-551" not in text and PLACEHOLDER not in text


def test_a_new_sealing_key_is_not_noticed_and_the_one_before_is_gone(instance: Instance, upstreams: Upstreams) -> None:
    url, key = f"https://api.up.example:{upstreams.https_port}/v1/rekeyed", instance.state / "decide/sealed.key"
    instance.cli("secret", "rotate", "key", given=SECRET)
    before = key.read_bytes()
    with asking(instance, url) as ask:
        assert "1 secret sealed anew" in instance.cli("secret", "rekey").stderr
        assert key.read_bytes() != before and not key.with_suffix(".old").exists()
        assert ask() == "200\n"
        assert sent(upstreams, "/v1/rekeyed") == f"Bearer {SECRET}"
    assert [one["operator"] for one in instance.audit(kind="operator") if one.get("action") == "secret.rekey"]
    os.kill(instance.pids()["decide"], signal.SIGKILL)
    wait_for(lambda: instance.cli("secret", "test", "key", check=False).returncode == 0, "the new key opens it again")


def test_who_used_it_is_told(instance: Instance) -> None:
    rows = [json.loads(line) for line in instance.cli("secret", "usage", "key", "--json").stdout.splitlines()]
    assert rows and {row["host"] for row in rows} == {"api.up.example"}
    assert all(row["count"] >= 1 and row["first"] <= row["last"] and row["role"] == "agent" for row in rows)
    permits = [r for r in instance.audit(decision="permit") if r.get("credential") == rows[0]["credential"]]
    assert sum(row["count"] for row in rows) == len(permits)


def test_a_secret_is_tried_without_being_shown(instance: Instance) -> None:
    done = instance.cli("secret", "test", "key", "--json")
    assert json.loads(done.stdout.splitlines()[0])["ok"] is True
    instance.cli("secret", "rotate", "key", given="line\r\nx-admin: 1-5514")
    done = instance.cli("secret", "test", "key", check=False)
    assert done.returncode == 1
    assert "control characters" in done.stdout and "5514" not in done.stdout + done.stderr
    instance.cli("secret", "rotate", "key", given=SECRET)
    assert instance.cli("secret", "test", "key").returncode == 0


def test_an_expired_secret_denies_with_its_reason(instance: Instance, upstreams: Upstreams) -> None:
    url = f"https://api.up.example:{upstreams.https_port}/v1/expiring"
    instance.cli("secret", "rotate", "key", "--expires", "4s", given=SECRET)
    assert "expires within a day" in instance.cli("status").stdout
    assert "secret rotate key" in instance.cli("doctor", check=False).stderr
    wait_for(lambda: listed(instance)["state"] == "expired", "the secret has expired")
    before = len(upstreams.reached("/v1/expiring"))
    done = instance.run("agent", "curl", "-s", url)
    said = json.loads(done.stdout)
    assert said["reason"] == "credential_expired", said
    assert len(upstreams.reached("/v1/expiring")) == before
    instance.cli("secret", "rotate", "key", given=SECRET)
    with asking(instance, url):
        assert sent(upstreams, "/v1/expiring") == f"Bearer {SECRET}"


@pytest.mark.parametrize("name", ["..", "../key", "key/../../status", "k\x1b[2J", "Key", "a" * 64, "k\ny"])
@pytest.mark.parametrize("command", ["put", "rotate", "test", "usage", "rm"])
def test_a_name_is_a_name(instance: Instance, command: str, name: str) -> None:
    done = instance.cli("secret", command, name, given="some-value-77", check=False)
    assert done.returncode != 0
    assert "\x1b" not in done.stdout + done.stderr and "some-value-77" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert listed(instance)["name"] == "key"


def test_no_command_takes_a_value_where_others_can_read_it(instance: Instance) -> None:
    for arguments in (
        ("put", "key", "hunter2-value"),
        ("put", "key", "--value", "hunter2-value"),
        ("rotate", "key", "v"),
    ):
        assert instance.cli("secret", *arguments, given="", check=False).returncode == 2
    process = subprocess.Popen(
        [str(REMIT), "secret", "rotate", "key"], stdin=subprocess.PIPE, env=instance.environment, stderr=subprocess.PIPE
    )
    shown = b"".join((Path("/proc") / str(process.pid) / what).read_bytes() for what in ("cmdline", "environ"))
    assert SECRET.encode() not in shown
    process.communicate(SECRET.encode())
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("value", "code"), [(b"x" * (64 << 10), 2), (b"x" * ((64 << 10) + 1), 2), (b"", 2), (b"\0" * 9 + b"binary", 0)]
)
def test_what_is_too_long_or_empty_is_refused_and_nothing_is_changed(
    instance: Instance, value: bytes, code: int
) -> None:
    before = listed(instance)["version"]
    done = subprocess.run(
        [str(REMIT), "secret", "rotate", "key"], input=value, capture_output=True, env=instance.environment
    )
    assert (done.returncode == 0) == (code == 0), done.stderr
    assert listed(instance)["version"] == (before if code else int(str(before)) + 1)
