"""A new sealing key: nothing that was sealed for the one before is lost, whatever happens in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from remit import testing
from remit.api.link import NodeLink
from remit.app.sealing import NodeSealer
from remit.broker import sealed, whole
from remit.broker.ledger import Ledger
from remit.broker.openbao import reference
from remit.broker.rekeying import Rekeying
from remit.broker.rotations import Rotations
from remit.broker.sealed import Opener
from remit.control.catalog import Catalog
from remit.control.knowledge import Knowledge
from remit.control.pending import Pending
from remit.control.publish import Publisher
from remit.control.reaching import Reaching
from remit.control.recording import Recorder
from remit.control.secrets import Secrets
from remit.core.errors import Conflict, Unavailable
from remit.node import link


class World:
    """A node's sealed things in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = directory / "sealed.key"
        self.opener = Opener(self.key)
        self.known = {"github": sealed.seal(self.opener.public, "github", b"stored-7")}
        self.rotations = Rotations(directory / "rotated", self.opener)
        self.ledger = Ledger(directory / "leases", self.opener)
        self.entry = self.ledger.open("token-7")
        self.rotations.replace("github", b"stored-7", b"successor-7")

    def rekeying(self) -> Rekeying:
        return Rekeying(self.opener, lambda: self.known, (self.rotations, self.ledger))

    def through(self) -> None:
        rekeying = self.rekeying()
        rekeying.begin()
        self.known = {name: rekeying.reseal(name, blob) for name, blob in self.known.items()}
        rekeying.end()

    def holds(self) -> None:
        """Whoever starts now finds everything, with the key that is there."""
        opener = Opener(self.key)
        assert not opener.changing
        assert Rotations(self.directory / "rotated", opener).current("github", b"stored-7") == b"successor-7"
        assert Ledger(self.directory / "leases", opener).left() == {self.entry: "token-7"}
        assert opener.open("github", self.known["github"]) is not None


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_nothing_is_lost_and_the_key_before_opens_nothing_any_more(world: World, tmp_path: Path) -> None:
    before = tmp_path / "stolen.key"
    before.write_bytes(world.key.read_bytes())
    before.chmod(0o600)
    world.through()
    world.holds()
    assert world.rotations.current("github", b"stored-7") == b"successor-7"
    stolen = Opener(before)
    with pytest.raises(Unavailable):
        stolen.open("github", world.known["github"])
    with pytest.raises(Unavailable):
        Rotations(tmp_path / "rotated", stolen).current("github", b"stored-7")
    assert Ledger(tmp_path / "leases", stolen).left() == {}


def test_a_secret_that_is_not_sealed_anew_keeps_the_key_before(world: World) -> None:
    rekeying = world.rekeying()
    rekeying.begin()
    with pytest.raises(Conflict, match="github is still sealed"):
        rekeying.end()
    assert Opener(world.key).open("github", world.known["github"]) is not None


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_crash_in_between_loses_nothing_and_the_next_time_goes_on(world: World, steps: int) -> None:
    rekeying = world.rekeying()
    for step in (rekeying.begin, world.rotations.reseal)[:steps]:
        step()
    if not steps:  # the key before was kept, the new one not yet made
        (world.directory / "sealed.old").write_bytes(world.key.read_bytes())
        (world.directory / "sealed.old").chmod(0o600)
    before = world.key.read_bytes()
    world.opener = Opener(world.key)
    world.rotations = Rotations(world.directory / "rotated", world.opener)
    world.ledger = Ledger(world.directory / "leases", world.opener)
    world.through()
    world.holds()
    assert (world.key.read_bytes() == before) == (steps > 0)
    assert not (world.directory / "sealed.old").exists()


def test_what_cannot_be_written_keeps_the_key_before(world: World) -> None:
    (file,) = (world.directory / "rotated").iterdir()
    whole.fresh(file).mkdir()
    with pytest.raises(Unavailable, match="cannot be written"):
        world.through()
    assert Opener(world.key).changing
    whole.fresh(file).rmdir()
    world.through()
    world.holds()


def test_what_was_never_readable_does_not_stop_it(world: World) -> None:
    (world.directory / "rotated/0.sealed").write_bytes(b"not sealed by anyone")
    world.through()
    world.holds()


def test_what_another_store_keeps_stays_as_it_is(world: World) -> None:
    kept = reference.of(3, "0" * 16)
    assert world.rekeying().reseal("slack", kept) == kept


async def test_what_is_not_written_yet_is_written_for_the_new_key(world: World) -> None:
    (file,) = (world.directory / "rotated").iterdir()
    whole.fresh(file).mkdir()
    with pytest.raises(Unavailable):
        world.rotations.replace("github", b"stored-7", b"successor-8")
    whole.fresh(file).rmdir()
    world.through()
    assert Rotations(world.directory / "rotated", Opener(world.key)).current("github", b"stored-7") == b"successor-8"


async def test_the_control_plane_has_every_secret_sealed_anew_by_the_node(tmp_path: Path) -> None:
    world, clock, store = World(tmp_path), testing.ManualClock(), testing.MemoryStore()
    knowledge = Knowledge(lease_s=30, monotonic=clock.elapsed)
    far = NodeLink(store=store, clock=clock, cells=testing.MemoryCells())
    catalog, journal = Catalog(), testing.MemoryJournal()
    pending = Pending(testing.MemoryReserve(), clock.now())
    publisher = Publisher(
        store=store, node=far, issuer=testing.MemoryIssuer(), clock=clock,
        pending=pending,
        reaching=Reaching(store=store, cells=testing.MemoryCells(), catalog=catalog, pending=pending),
    )  # fmt: skip
    publisher.begin()
    secrets = Secrets(
        store=store, publisher=publisher, recorder=Recorder(far), catalog=catalog, clock=clock, node=far,
        sealer=NodeSealer(world.key.with_suffix(".pub")),
    )  # fmt: skip
    near = link.Link(
        socket=tmp_path / "node.sock", cache=tmp_path / "snapshot.json", knowledge=knowledge, journal=journal,
        head=lambda: None, using=lambda kind, name: {},
    )  # fmt: skip
    rekeying = Rekeying(world.opener, lambda: knowledge.snapshot.sealed, (world.rotations, world.ledger))
    near.rekeys(rekeying)
    async with far.listening(tmp_path / "node.sock", publisher.current):
        running = asyncio.create_task(near.run())
        try:
            await far.returned()
            await secrets.put("github", b"stored-7", operator="ann")
            before = knowledge.snapshot.sealed["github"]
            assert (await secrets.rekey(operator="ann")).secrets == 1
            world.known = dict(knowledge.snapshot.sealed)
            assert world.known["github"] != before
            world.holds()
            with pytest.raises(Unavailable, match="not sealed for this node"):
                world.opener.open("github", before)
            with pytest.raises(Unavailable, match="not sealed for this node"):
                await far.rekey("reseal", "github", before)
            rekeying.begin()
            world.opener = Opener(world.key)
            assert world.opener.outdated(world.known["github"])
            with pytest.raises(Conflict, match="github is still sealed"):
                await far.rekey("end")
            assert (await secrets.rekey(operator="ann")).secrets == 1
            actions = [entry.fields["action"] for _, entry in journal.entries]
            assert actions == ["secret.put", "secret.rekey", "secret.rekey"]
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
