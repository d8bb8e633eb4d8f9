"""Which tokens a crash leaves open is read from a file that a full disk may have cut."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from remit.broker.ledger import Ledger
from remit.broker.sealed import Opener
from remit.core.errors import Unavailable


@pytest.fixture
def opener(tmp_path: Path) -> Opener:
    return Opener(tmp_path / "sealing.key")


def test_what_is_open_is_there_after_a_restart_and_what_was_closed_is_not(tmp_path: Path, opener: Opener) -> None:
    ledger = Ledger(tmp_path / "leases", opener)
    kept, ended = ledger.open("one"), ledger.open("two")
    ledger.closed(ended)
    assert Ledger(tmp_path / "leases", opener).left() == {kept: "one"}


def test_a_line_that_a_full_disk_cut_takes_none_behind_it(
    tmp_path: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "leases"
    ledger = Ledger(file, opener)

    def full(_: int) -> None:
        os.truncate(file, file.stat().st_size - 10)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(Unavailable, match="No space left"):
            ledger.open("never used")
    held = ledger.open("held")
    assert Ledger(file, opener).left() == {held: "held"}
