"""Which ended tasks go: by age, then by size, never what nobody has merged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from remit.cell.retention import UNMERGED, Left, Plan, Retention, plan

NOW, DAY = 1_800_000_000.0, 86_400.0


def left(task: str, days: float, size: int = 10) -> Left:
    return Left(task=task, last=NOW - days * DAY, size_bytes=size)


def planned(
    *found: Left, days: float = 30, total: int = 1000, unmerged: Callable[[str], bool] = lambda task: False
) -> Plan:
    return plan(found, Retention(age_s=days * DAY, total_bytes=total), NOW, unmerged)


def tasks(items: tuple[tuple[Left, str], ...]) -> list[str]:
    return [one.task for one, _ in items]


def test_what_is_too_old_goes_and_the_rest_stays() -> None:
    found = planned(left("old", 31), left("edge", 30), left("new", 29))
    assert tasks(found.gone) == ["old", "edge"]
    assert [one.task for one in found.rest] == ["new"]


@pytest.mark.parametrize(("total", "gone"), [(30, []), (29, ["a"]), (10, ["a", "b"]), (0, ["a", "b", "c"])])
def test_over_the_total_the_oldest_go_first(total: int, gone: list[str]) -> None:
    assert tasks(planned(left("c", 1), left("a", 3), left("b", 2), total=total).gone) == gone


def test_unmerged_changes_stay_are_named_and_the_next_oldest_goes_in_their_place() -> None:
    found = planned(left("a", 40), left("b", 3), left("c", 2), total=15, unmerged=lambda task: task in ("a", "b"))
    assert found.stays == ((left("a", 40), UNMERGED), (left("b", 3), UNMERGED))
    assert tasks(found.gone) == ["c"]


def test_only_what_is_due_is_looked_into() -> None:
    looked: list[str] = []
    planned(left("old", 31), left("new", 1), unmerged=lambda task: bool(looked.append(task)))
    assert looked == ["old"]
