"""What every reserve of revocations must keep to: the in-memory one and the file."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from remit.control.ports_control import Reserve, Revocation, RevocationKind
from remit.core.errors import Unavailable
from remit.store.reserve import SLOT_BYTES, FileReserve
from remit.testing import MemoryReserve

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def one(name: str) -> Revocation:
    return Revocation(kind=RevocationKind.CAPABILITY, name=name, time=NOW, operator="ann")


@pytest.fixture(params=["memory", "file"])
def reserve(request: pytest.FixtureRequest, tmp_path: Path) -> Reserve:
    return MemoryReserve() if request.param == "memory" else FileReserve(tmp_path / "reserve")


def test_a_new_one_is_empty_and_gives_back_what_was_saved_last(reserve: Reserve) -> None:
    assert not reserve.load()
    for saved in ([one("a")], [one("a"), one("b")], [], [one("c")]):
        reserve.save(saved)
        assert list(reserve.load()) == saved


def test_another_process_reads_it(tmp_path: Path) -> None:
    FileReserve(tmp_path / "reserve").save([one("a")])
    again = FileReserve(tmp_path / "reserve")
    assert list(again.load()) == [one("a")]
    again.save([one("b")])
    assert list(FileReserve(tmp_path / "reserve").load()) == [one("b")]


def test_a_write_that_was_cut_off_leaves_the_one_before(tmp_path: Path) -> None:
    reserve = FileReserve(tmp_path / "reserve")
    reserve.save([one("a")])
    reserve.save([one("b")])
    descriptor = os.open(tmp_path / "reserve", os.O_WRONLY)
    os.pwrite(descriptor, b"torn", 60)  # turn 2 is in the first slot
    os.close(descriptor)
    assert list(FileReserve(tmp_path / "reserve").load()) == [one("a")]


def test_a_damaged_one_is_never_taken_for_empty(tmp_path: Path) -> None:
    (tmp_path / "reserve").write_bytes(b"x" * 2 * SLOT_BYTES)
    with pytest.raises(Unavailable, match="damaged"):
        FileReserve(tmp_path / "reserve").load()


def test_what_does_not_fit_is_refused_and_the_last_kept(tmp_path: Path) -> None:
    reserve = FileReserve(tmp_path / "reserve")
    reserve.save([one("a")])
    with pytest.raises(Unavailable, match="too many"):
        reserve.save([one("x" * 60 + str(n)) for n in range(1000)])
    assert list(reserve.load()) == [one("a")]
