"""Processes that do not start say why; what a supervisor started ends with it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from instance import wait_for

from remit.core.errors import Unavailable
from remit.node import notify
from remit.node import supervisor as supervising
from remit.node.supervisor import Program, Supervisor

SAYS_WHY = """
import sys
from remit.node.notify import Notifier
Notifier(int(sys.argv[-1])).failed("the port is taken", "choose another")
sys.exit(1)
"""
SAYS_MUCH = SAYS_WHY.replace('"choose another"', "chr(0x1F511) * 500").replace('"the port is taken"', "chr(7) * 500")
ALONE = """
import asyncio, sys
from remit.node import supervisor as supervising
from remit.node.supervisor import Program, Supervisor
stubborn = "import os, sys, time; os.write(int(sys.argv[-1]), b'R'); print(os.getpid(), flush=True); time.sleep(1000)"
program = Program(name="one", argv=[sys.executable, "-c", stubborn], environment={})
asyncio.run(Supervisor([program], lambda *_: None).run(lambda: None))
"""


def program(source: str, tmp_path: Path) -> Program:
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return Program(name="part", argv=[sys.executable, "-c", source], environment=environment, log=tmp_path / "part.log")


async def failure(source: str, tmp_path: Path) -> Unavailable:
    supervisor = Supervisor([program(source, tmp_path)], lambda *_: None)
    with pytest.raises(Unavailable) as failed:
        await asyncio.wait_for(supervisor.run(lambda: None), 30)
    return failed.value


async def test_a_process_that_does_not_start_is_quoted_with_its_hint(tmp_path: Path) -> None:
    error = await failure(SAYS_WHY, tmp_path)
    assert (error.detail, error.hint) == ("part does not start: the port is taken", "choose another")


async def test_the_longest_words_are_quoted_whole(tmp_path: Path) -> None:
    error = await failure(SAYS_MUCH, tmp_path)
    assert (error.detail, error.hint) == ("part does not start: " + "\a" * 500, "\U0001f511" * 500)


async def test_a_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    part = program(SAYS_WHY, tmp_path / "nowhere")
    with pytest.raises(Unavailable, match=r"part does not start: .*No such file"):
        await asyncio.wait_for(Supervisor([part], lambda *_: None).run(lambda: None), 30)


async def test_watching_a_process_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at a process once left a task that waited for its end."""
    monkeypatch.setattr(notify, "INTERVAL_S", 0.001)
    asked = asyncio.Event()
    looks = 0

    async def probe() -> None:
        nonlocal looks
        looks += 1
        if looks == 50:
            asked.set()

    path = tmp_path / "s"
    serving = (
        "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(1000)"
    )
    part = Program(
        name="envoy",
        argv=[sys.executable, "-c", serving, str(path)],
        environment={},
        notifies=False,
        socket=path,
        probe=probe,
    )
    supervisor = Supervisor([part], lambda *_: None)
    running = asyncio.ensure_future(supervisor.run(lambda: None))
    await asyncio.wait_for(asked.wait(), 30)
    assert len(asyncio.all_tasks()) < 10
    supervisor.stop()
    await running


@pytest.mark.parametrize("said", ['b"E" + b"[" * 60000', 'b"E{}"', 'b"E" + b"x" * 500000'])
async def test_last_words_that_cannot_be_read_are_none_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """A process of another user may have been taken over."""
    held: list[int] = []
    words = supervising._last_words
    monkeypatch.setattr(supervising, "_last_words", lambda said: held.append(len(said)) or words(said))
    error = await failure(f"import os, sys; os.write(int(sys.argv[-1]), {said}); sys.exit(3)", tmp_path)
    assert error.detail == f"part ended with code 3 while starting; see {tmp_path / 'part.log'}"
    assert max(held) <= supervising.PIPE_BYTES


async def test_a_process_that_says_nothing_is_named_with_its_log(tmp_path: Path) -> None:
    error = await failure("import sys; sys.exit(3)", tmp_path)
    assert error.detail == f"part ended with code 3 while starting; see {tmp_path / 'part.log'}"
    assert error.hint == "remit doctor"


async def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    missing = Program(name="envoy", argv=["/nowhere/envoy"], environment={}, notifies=False, socket=tmp_path / "s")
    with pytest.raises(Unavailable, match=r"envoy does not start: .*No such file"):
        await asyncio.wait_for(Supervisor([missing], lambda *_: None).run(lambda: None), 30)


def test_what_a_killed_supervisor_started_ends_with_it() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", ALONE], stdout=subprocess.PIPE, env=environment) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        supervisor.send_signal(signal.SIGKILL)
        wait_for(lambda: not running(child), "the child to end")


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_process_that_does_not_answer_is_stalled_and_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot beat by itself (Envoy) is asked."""
    monkeypatch.setattr(supervising, "STALL_S", 0.6)
    serving = (
        "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(1000)"
    )
    path, said, asked = tmp_path / "s", [], 0

    async def probe() -> None:
        nonlocal asked
        asked += 1
        if asked > 2 and said.count("ready") < 2:
            raise OSError("no answer")

    silent = Program(
        name="envoy",
        argv=[
            sys.executable,
            "-c",
            f"import os, contextlib\nwith contextlib.suppress(OSError): os.unlink({str(path)!r})\n{serving}",
            str(path),
        ],
        environment={},
        notifies=False,
        socket=path,
        probe=probe,
    )
    supervisor = Supervisor([silent], lambda name, state: said.append(state))
    running = asyncio.ensure_future(supervisor.run(lambda: None))
    async with asyncio.timeout(60):
        while said.count("ready") < 2:
            await asyncio.sleep(0.02)
    supervisor.stop()
    await running
    assert said[:4] == ["starting", "ready", "stalled", "died (-9)"]
    assert supervisor.restarts() == {"envoy": 1}


async def test_a_process_that_waits_for_a_processor_is_not_stalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would beat if it could; killing it on a crowded machine ends every connection of every cell."""
    monkeypatch.setattr(supervising, "STALL_S", 0.2)
    monkeypatch.setattr(notify, "INTERVAL_S", 0.05)
    looks, said = 0, list[str]()

    def crowded(pid: int) -> float:
        nonlocal looks
        looks += 1
        if looks == 40:
            supervisor.stop()
        return time.monotonic()

    monkeypatch.setattr(supervising, "waited_for_processor_s", crowded)
    silent = program("import os, sys, time; os.write(int(sys.argv[-1]), b'R'); time.sleep(1000)", tmp_path)
    supervisor = Supervisor([silent], lambda name, state: said.append(state))
    await asyncio.wait_for(supervisor.run(lambda: None), 60)
    assert said == ["starting", "ready", "stopped"]


def test_only_who_wants_a_processor_waits_for_one() -> None:
    """Two that compute on one processor, and one that sleeps."""
    first = min(os.sched_getaffinity(0))
    spin = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(["taskset", "-c", str(first), *argv]) for argv in (spin, spin, ["sleep", "1000"])]
    *busy, idle = (one.pid for one in started)

    def wait(seconds: float) -> None:
        wait_for(lambda: all(supervising.waited_for_processor_s(pid) > seconds for pid in busy), "both to wait")

    try:
        wait_for(lambda: Path(f"/proc/{idle}/stat").read_text().split()[1:3] == ["(sleep)", "S"], "the third to sleep")
        wait(0.2)
        before = supervising.waited_for_processor_s(idle)
        wait(0.6)
        assert supervising.waited_for_processor_s(idle) == before
    finally:
        for one in started:
            one.kill()
            one.wait()
    assert supervising.waited_for_processor_s(idle) == 0.0
