"""A sandbox that does not come up is told in words, also where bubblewrap said none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from remit.cell import process, sandbox
from remit.core.errors import Unavailable


class _NoGroup:
    absent = ()

    def join(self) -> None: ...


@pytest.fixture
def ground() -> Iterator[process.Ground]:
    network = os.open("/proc/self/ns/net", os.O_RDONLY)
    yield process.Ground(network=network, group=_NoGroup(), user=os.geteuid(), files=1024)  # type: ignore[arg-type]
    os.close(network)


@pytest.mark.skipif(os.geteuid() != 0, reason="enters a network namespace")
@pytest.mark.parametrize(("script", "said"), [("exit 1", "no message"), ("echo no room >&2; exit 1", "no room")])
@pytest.mark.parametrize("terminal", [None, (24, 80)])
async def test_a_sandbox_that_does_not_come_up(
    ground: process.Ground,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: object,
    script: str,
    said: str,
    terminal: tuple[int, int] | None,
) -> None:
    fake = f"{tmp_path}/bwrap"
    with open(os.open(fake, os.O_WRONLY | os.O_CREAT, 0o755), "w") as file:
        file.write(f"#!/bin/sh\n{script}\n")
    monkeypatch.setattr(process, "_BWRAP", fake)
    spec = sandbox.Spec(
        argv=("true",), environment={}, cwd="/", system=(), mounts=(), seccomp=(), info=-1, terminals="/dev/pts"
    )
    with pytest.raises(Unavailable, match=f"bubblewrap could not make the sandbox: {said}"):
        await process.start(spec, ground, terminal=terminal)
