"""What `doctor` finds on a machine that has little of something."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from remit.node import doctor


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that has just enough of everything, in /proc/sys as it is on Linux."""
    for name, least in doctor.MACHINE.items():
        path = tmp_path / name.replace(".", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{least}\n")
    monkeypatch.setattr(doctor, "SYSCTL", tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, doctor.FILES))
    return tmp_path


def found() -> doctor.Check:
    return doctor._many_cells()


def test_a_machine_with_room_for_many_cells_is_told_as_that(machine: Path) -> None:
    assert found() == doctor.Check(check="room for many cells", ok=True, detail="enough for 200", needed=False)


def test_what_a_kernel_does_not_have_is_not_missed(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "user/max_cgroup_namespaces").unlink()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    assert found().ok


@pytest.mark.parametrize("name", doctor.MACHINE)
def test_a_number_that_is_too_small_for_many_cells_is_named_with_what_raises_it(machine: Path, name: str) -> None:
    (machine / name.replace(".", "/")).write_text("100\n")
    assert (found().ok, found().needed) == (False, False)
    assert found().detail == f"little for 200 cells: {name} is 100"
    assert found().hint == f"sysctl {name}={doctor.MACHINE[name]}"


def test_few_descriptors_of_a_process_are_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "fs/file-max").write_text("100\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert found().detail == "little for 200 cells: fs.file-max is 100, ulimit -Hn is 4096"
    assert found().hint == "sysctl fs.file-max=1048576; ulimit -Hn 65536 before remit up"
