"""A whole instance with an OpenBao of its own (`remit up --secrets openbao`): kept, used, rotated, killed, gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from governed import SECRET, governed
from instance import Instance, asking, refused, wait_for
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("openbao")


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Upstreams:
    return Upstreams(tmp_path_factory.mktemp("up"))


@pytest.fixture(scope="module")
def instance(upstreams: Upstreams) -> Iterator[Instance]:
    with governed(upstreams, REMIT_SECRETS="openbao") as found:
        yield found


def sent(upstreams: Upstreams, path: str) -> str:
    return str(upstreams.reached(path)[-1]["headers"]["authorization"])


def server(instance: Instance) -> int:
    """pid of the server itself, the child of the process that the supervisor knows."""
    parent = instance.pids()["openbao"]
    (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(child)


def _until_another(instance: Instance, before: tuple[int, int]) -> None:
    wait_for(lambda: instance.pids().get("openbao") not in (None, before[1]), "another process runs")
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), "nothing of the one before is left")


def working(instance: Instance) -> bool:
    return instance.cli("secret", "test", "key", check=False).returncode == 0


def test_a_secret_is_used_rotated_and_not_in_the_database(instance: Instance, upstreams: Upstreams) -> None:
    url = f"https://api.up.example:{upstreams.https_port}/v1/kept"
    with asking(instance, url) as ask:
        assert sent(upstreams, "/v1/kept") == f"Bearer {SECRET}"
        instance.cli("secret", "rotate", "key", given="the-second-value-8812")
        assert ask() == "200\n"
        assert sent(upstreams, "/v1/kept") == "Bearer the-second-value-8812"
    (found,) = [json.loads(line) for line in instance.cli("secret", "list", "--json").stdout.splitlines()]
    assert (found["name"], found["version"]) == ("key", 2)
    assert "openbao secret/remit/key" in instance.cli("secret", "test", "key", "--json").stdout
    assert "openbao" in instance.cli("status").stdout
    checks = [json.loads(line) for line in instance.cli("doctor", "--json", check=False).stdout.splitlines()]
    assert {"ready, unsealed"} == {check["detail"] for check in checks if check["check"] == "openbao"}
    for file in instance.directory.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"-value-8812" not in content and SECRET.encode() not in content, file
    instance.cli("secret", "rotate", "key", given=SECRET)


def test_killed_or_stalled_it_comes_back_and_unseals_itself(instance: Instance, upstreams: Upstreams) -> None:
    for which, how in ((0, signal.SIGKILL), (1, signal.SIGKILL), (0, signal.SIGSTOP), (1, signal.SIGSTOP)):
        before = server(instance), instance.pids()["openbao"]
        os.kill(before[which], how)
        _until_another(instance, before)
        wait_for(lambda: working(instance), "its secrets are there again")
    with asking(instance, f"https://api.up.example:{upstreams.https_port}/v1/again"):
        assert sent(upstreams, "/v1/again") == f"Bearer {SECRET}"


def test_after_down_and_up_it_is_as_it_was(instance: Instance, upstreams: Upstreams) -> None:
    gone = server(instance)
    instance.cli("down")
    assert not Path(f"/proc/{gone}").exists()
    instance.cli("up", "--detach", "--secrets", "openbao")
    with asking(instance, f"https://api.up.example:{upstreams.https_port}/v1/later"):
        assert sent(upstreams, "/v1/later") == f"Bearer {SECRET}"


@pytest.mark.skipif(os.geteuid() != 0, reason="uids of their own need root")
def test_it_has_a_uid_of_its_own_and_no_other_process_reads_its_files(instance: Instance) -> None:
    pids = instance.pids()
    user = {name: Path(f"/proc/{pids[name]}").stat().st_uid for name in ("envoy", "cells", "forward")}
    status = {n: Path(f"/proc/{p}/status").read_text() for n, p in {**pids, "server": server(instance)}.items()}
    uids = {name: int(text.partition("\nUid:\t")[2].split()[0]) for name, text in status.items()}
    assert uids["server"] == uids["openbao"]
    assert uids["openbao"] not in {uid for name, uid in uids.items() if name not in ("server", "openbao")} | {0}, user
    secrets = [instance.state / "openbao/unseal.key", instance.state / "openbao/recovery.key"]
    logins = [instance.state / "openbao-logins/decide", instance.state / "openbao-logins/control"]
    for name in ("decide", "control", "envoy", "forward"):
        readable = {
            "decide": instance.run_dir / "store/openbao.toml",
            "control": instance.run_dir / "keeping/openbao.toml",
        }
        for file in (*secrets, *logins, *(path for owner, path in readable.items() if owner != name)):
            done = subprocess.run(
                ["cat", str(file)], user=uids[name], group=uids[name], extra_groups=[], capture_output=True
            )
            assert b"ermission denied" in done.stderr, (name, file)


def test_what_does_not_go_together_is_refused(instance: Instance) -> None:
    refused(instance, 2, "sealed or openbao", command="up --detach --secrets vault")
    refused(instance, 2, "remit secret rekey", command="up --detach --secrets sealed --rekey")


def test_new_keys_and_logins_end_those_before(instance: Instance, upstreams: Upstreams) -> None:
    def made() -> dict[str, bytes]:
        files = [*(instance.state / "openbao").glob("*.key"), *(instance.state / "openbao-logins").iterdir()]
        return {file.name: file.read_bytes() for file in files}

    before = made()
    refused(instance, 5, "already up", command="up --detach --secrets openbao --rekey")
    instance.cli("down")
    instance.cli("up", "--detach", "--secrets", "openbao", "--rekey")
    after = made()
    assert not set(before.values()) & set(after.values())
    assert len([name for name in after if name.startswith("unseal")]) == 1
    with asking(instance, f"https://api.up.example:{upstreams.https_port}/v1/renewed") as ask:
        assert sent(upstreams, "/v1/renewed") == f"Bearer {SECRET}"
        instance.cli("secret", "rotate", "key", given="after-renewal-8814")
        assert ask() == "200\n"
        assert sent(upstreams, "/v1/renewed") == "Bearer after-renewal-8814"
    instance.cli("secret", "rotate", "key", given=SECRET)
    instance.cli("down")
    (instance.state / "openbao-logins/decide").unlink()  # a login that is lost is made anew, and ends the one before
    instance.cli("up", "--detach", "--secrets", "openbao")
    assert working(instance)
    assert made()["generation"] != after["generation"]
    instance.cli("down")
    instance.cli("up", "--detach", "--secrets", "openbao")
    assert working(instance)


def test_the_leak_drill_finds_nothing(instance: Instance) -> None:
    done = instance.cli("secret", "drill", check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_removed_secret_is_gone_there_too(instance: Instance, upstreams: Upstreams) -> None:
    instance.cli("secret", "rm", "key")
    done = instance.run("agent", "curl", "-s", f"https://api.up.example:{upstreams.https_port}/v1/gone")
    assert json.loads(done.stdout)["reason"] == "credential_unavailable"
    instance.cli("secret", "put", "key", given="put-anew-8813")
    with asking(instance, f"https://api.up.example:{upstreams.https_port}/v1/anew"):
        assert sent(upstreams, "/v1/anew") == "Bearer put-anew-8813"


def test_what_is_there_is_not_used_without_it(instance: Instance, upstreams: Upstreams) -> None:
    instance.cli("down")
    instance.cli("up", "--detach", "--secrets", "sealed")
    done = instance.run("agent", "curl", "-s", f"https://api.up.example:{upstreams.https_port}/v1/without")
    assert json.loads(done.stdout)["reason"] == "credential_unavailable"
    assert "does not run" in json.dumps(instance.audit())
    refused(instance, 5, "is in the node's OpenBao", command="secret rm key")
    instance.secret("key", SECRET)
    with asking(instance, f"https://api.up.example:{upstreams.https_port}/v1/sealed"):
        assert sent(upstreams, "/v1/sealed") == f"Bearer {SECRET}"
