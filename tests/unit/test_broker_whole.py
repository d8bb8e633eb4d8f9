"""A file that is there whole or not at all: its mode, what stands in its way, and that its name is durable too."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from remit.broker import whole


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_is_replaced_with_its_mode_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key"
    before = os.umask(0o077)
    try:
        for data in (b"one", b"two"):
            whole.replace(file, data, mode)
            assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (data, mode)
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == [file]


def test_what_was_left_half_written_is_in_nobodys_way(tmp_path: Path) -> None:
    file = tmp_path / "key"
    whole.fresh(file).symlink_to(tmp_path / "elsewhere")
    whole.replace(file, b"whole")
    assert file.read_bytes() == b"whole"
    assert not (tmp_path / "elsewhere").exists()


def test_what_cannot_be_written_is_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "key"
    whole.replace(file, b"before")
    whole.fresh(file).mkdir()
    with pytest.raises(OSError, match=r"key\.new"):
        whole.replace(file, b"after")
    assert file.read_bytes() == b"before"


def test_the_directory_is_synced_after_the_name_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, synced = tmp_path / "key", list[tuple[bool, bool]]()
    fsync = os.fsync

    def see(number: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(number).st_mode), file.exists()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", see)
    whole.replace(file, b"x")
    assert synced == [(False, False), (True, True)]
