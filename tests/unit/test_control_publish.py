"""Pushing to the node: whole, once for many, and bounded in time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import control_plane
import pytest

from remit.control import publish
from remit.core.errors import Unavailable


async def test_many_changes_at_once_share_pushes(tmp_path: Path) -> None:
    plane = control_plane.build(tmp_path)
    for _ in range(10):
        with plane.store.unit() as unit:
            unit.advance_epoch(plane.clock.now())
    await asyncio.gather(*(plane.publisher.publish() for _ in range(10)))
    assert len(plane.node.snapshots) == 1


async def test_a_node_that_does_not_answer_is_given_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plane = control_plane.build(tmp_path)
    monkeypatch.setattr(publish, "ACK_TIMEOUT_S", 0.05)

    async def silent(snapshot: Mapping[str, Any]) -> None:
        await asyncio.Event().wait()

    plane.node.publish = silent  # type: ignore[method-assign]
    results = await asyncio.gather(*(plane.publisher.publish() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert "did not acknowledge" in str(results[0])


async def test_a_restarted_control_plane_outranks_what_its_node_remembers(tmp_path: Path) -> None:
    plane = control_plane.build(tmp_path)
    first = plane.publisher.current()["epoch"]
    plane.publisher.begin()
    assert plane.publisher.current()["epoch"] > first
