"""The log is kept within its bounds: only by what an operator acknowledged, on record, and never by default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import control_plane
import pytest
from control_plane import Plane

from remit.control.ports_audit import Retirable
from remit.control.retiring import Bounds, Exported, Retiring
from remit.core.errors import Conflict, Unavailable

EXPORT = Exported(first=1, last=100, digest="a" * 64, sha256="b" * 64)
GOING = Retirable(segment=3, seq=90, hash="c" * 64)


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    return control_plane.build(tmp_path)


def bounded(plane: Plane, retiring: Retiring) -> Retiring:
    retiring.bounds = Bounds(age_s=60.0)
    return retiring


def recorded(plane: Plane) -> list[Any]:
    return [dict(fields) for _, fields in plane.node.records if str(fields["action"]).startswith("audit.")]


async def test_nothing_leaves_the_log_by_itself_by_default(plane: Plane) -> None:
    plane.audit.going = GOING
    retiring = plane.services.retiring
    await retiring.acknowledge(EXPORT, operator="ann")
    assert await retiring.bound() is None
    assert [one["action"] for one in recorded(plane)] == ["audit.acknowledge"]


async def test_nothing_leaves_it_that_nobody_acknowledged(plane: Plane) -> None:
    plane.audit.going = GOING
    retiring = bounded(plane, plane.services.retiring)
    assert await retiring.bound() is None
    await retiring.acknowledge(replace(EXPORT, last=89), operator="ann")
    assert await retiring.bound() is None
    assert [one["action"] for one in recorded(plane)] == ["audit.acknowledge"]


async def test_what_was_acknowledged_leaves_it_on_record(plane: Plane) -> None:
    plane.audit.going = GOING
    retiring = bounded(plane, plane.services.retiring)
    kept = await retiring.acknowledge(EXPORT, operator="ann")
    assert await retiring.bound() == GOING
    told, gone = recorded(plane)
    assert (told["operator"], told["last"], told["last_hash"]) == ("ann", 100, "a" * 64)
    assert (gone["action"], gone["operator"]) == ("audit.retire", "remit")
    assert (gone["segment"], gone["through"], gone["through_hash"]) == (3, 90, "c" * 64)
    assert gone["export_sha256"] == "b" * 64
    assert f"ann keeps an export (record {kept.record})" in gone["detail"]


async def test_an_acknowledgement_that_cannot_be_recorded_is_none(plane: Plane) -> None:
    plane.node.connected = False
    with pytest.raises(Unavailable):
        await plane.services.retiring.acknowledge(EXPORT, operator="ann")
    assert plane.services.retiring.acknowledged() is None


async def test_a_node_that_cannot_record_keeps_everything(plane: Plane) -> None:
    plane.audit.going = GOING
    retiring = bounded(plane, plane.services.retiring)
    await retiring.acknowledge(EXPORT, operator="ann")
    plane.node.connected = False
    with pytest.raises(Unavailable):
        await retiring.bound()


async def test_acknowledgements_follow_one_another(plane: Plane) -> None:
    retiring = plane.services.retiring
    await retiring.acknowledge(EXPORT, operator="ann")
    with pytest.raises(Conflict, match="up to 100 are acknowledged already"):
        await retiring.acknowledge(EXPORT, operator="ann")
    with pytest.raises(Conflict, match="are in none"):
        await retiring.acknowledge(replace(EXPORT, first=102, last=200), operator="ann")
    later = await retiring.acknowledge(replace(EXPORT, first=101, last=200), operator="bob")
    assert retiring.acknowledged() == later


async def test_an_export_of_another_log_removes_nothing_and_is_told_once(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    plane.audit.going = GOING
    retiring = bounded(plane, plane.services.retiring)
    await retiring.acknowledge(EXPORT, operator="ann")
    plane.audit.foreign = {EXPORT.digest}
    assert [await retiring.bound(), await retiring.bound()] == [None, None]
    assert caplog.text.count("is of another log") == 1
    assert [one["action"] for one in recorded(plane)] == ["audit.acknowledge"]


async def test_what_was_acknowledged_of_another_log_vouches_for_nothing_of_this_one(plane: Plane) -> None:
    retiring = plane.services.retiring
    await retiring.acknowledge(EXPORT, operator="ann")
    plane.audit.foreign = {EXPORT.digest}
    fresh = replace(EXPORT, digest="d" * 64, last=50)
    with pytest.raises(Conflict, match="are in none"):
        await retiring.acknowledge(replace(fresh, first=20), operator="ann")
    assert (await retiring.acknowledge(fresh, operator="ann")).last == 50
