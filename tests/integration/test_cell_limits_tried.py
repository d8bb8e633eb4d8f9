"""The limits of this machine, found out by setting them on a process; `remit doctor` tells this."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from remit.cell import limits


@pytest.mark.skipif(os.geteuid() != 0, reason="limits need root")
def test_what_doctor_tries_holds_and_leaves_nothing() -> None:
    where = limits.tree()
    missing = limits.tried(where)
    assert set(missing) <= {"memory", "processes", "cpu"}
    homes = {*where.v1.values(), *([where.v2] if where.v2 else [])}
    assert not [path for home in homes for path in home.glob(f"remit-doctor-{os.getpid()}")]


def test_a_group_that_nobody_can_enter_holds_nothing(tmp_path: Path) -> None:
    where = limits.Tree(v2=tmp_path / "nowhere", v2_controllers=limits.WANTED)
    assert set(limits.tried(where)) == {"memory", "processes", "cpu"}
