"""Policies, evaluated where they can be killed.

A Rego module can loop, allocate or overflow the engine's stack, and the engine holds the interpreter lock while it
does; so policies run in a process of their own with bounded memory, and an evaluation that takes too long costs that
process its life and the request a denial. The task whose request did it waits before it is heard again, so that one
cell cannot keep the worker dying for all others. What can be remembered is (`policy.memo`), so most requests never
reach the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from remit.control.ports import Policies
from remit.core.decision import Candidate, Opinion
from remit.core.snapshot import Policy, Snapshot
from remit.node import policy_places
from remit.node.policy_process import Died, Process
from remit.policy import ast
from remit.policy.given import given
from remit.policy.memo import Memo

log = logging.getLogger(__name__)

PATIENCE_S = 0.6
"""How long a request waits for its turn. Envoy's own time-out for a decision is 1 s."""
LOAD_TIMEOUT_S = 5.0
"""Reading one module; starting the process included."""
REST_S = 5.0
"""How long a task is not heard after its request cost the worker its life, or a worker that did not start."""
MAX_RESTING = 4096


@dataclass(slots=True)
class _Edition:
    """The policies of one version of the rules. `broken`: why a policy cannot be used, found while loading it."""

    policies: Mapping[str, Policy]
    memo: Memo | None = None
    broken: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Job:
    task: str
    names: tuple[str, ...]
    document: Mapping[str, Any]
    edition: _Edition
    answer: asyncio.Future[Opinion]


class Worker:
    """`control.ports.Policies`. One evaluation at a time: well under a millisecond each, so a queue serves better than
    more processes.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._edition = _Edition(policies={})
        self._process: Process | None = None
        self._loaded: _Edition | None = None
        self._queue: asyncio.Queue[_Job | None] = asyncio.Queue(maxsize=2 * policy_places.MAX_WAITING)
        self._places = policy_places.Places()
        self._resting: dict[Hashable, float] = {}
        self._serving: asyncio.Task[None] | None = None

    def update(self, snapshot: Snapshot) -> None:
        """Judge by the policies of `snapshot` from now on."""
        if snapshot.rules.policies != self._edition.policies:
            self._edition = _Edition(policies=dict(snapshot.rules.policies))
            self._resting.clear()
            if self._edition.policies:
                with contextlib.suppress(RuntimeError, asyncio.QueueFull):  # no loop yet, or awake anyway
                    self._serve()
                    self._queue.put_nowait(None)

    async def judge(self, candidate: Candidate) -> Opinion:
        names = candidate.role.policies
        if not names:
            return Opinion()
        document, edition = given(candidate), self._edition
        if edition.memo is not None:
            key = edition.memo.key(names, document)
            known = edition.memo.get(key) if key is not None else None
            if known is not None:
                return known
        task = candidate.task.id
        if self._rests((task, names)):
            return Opinion(
                failure=f"{', '.join(names)}: ran away on a request of this task; asked again in {REST_S:g} s"
            )
        if self._queue.full() or not self._places.free(task):
            return Opinion(failure=policy_places.FULL)
        job = _Job(task=task, names=names, document=document, edition=edition, answer=asyncio.Future())
        self._serve()
        self._queue.put_nowait(job)
        self._places.take(task)
        return await asyncio.ensure_future(self._opinion(job))  # a task: it bounds itself in time

    async def close(self) -> None:
        """End the process. Whoever still waits is refused."""
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
        await self._end()

    async def _opinion(self, job: _Job) -> Opinion:
        try:
            async with asyncio.timeout(PATIENCE_S + self._timeout_s):
                return await job.answer
        except TimeoutError:
            return Opinion(failure="the policies did not answer in time")
        finally:
            self._places.leave(job.task)

    def _serve(self) -> None:
        if self._serving is None or self._serving.done():
            self._serving = asyncio.get_running_loop().create_task(self._answering(), name="policies")

    async def _answering(self) -> None:
        """Take jobs one by one. A caller that gives up leaves its job here: the process is not interrupted for it."""
        while True:
            job = await self._queue.get()
            if job is not None and job.answer.done():
                continue
            try:
                opinion = await self._answered(job)
            except Exception as error:
                log.exception("the policy worker failed")
                await self._end()
                opinion = Opinion(failure=f"the policies could not be asked: {type(error).__name__}")
            if job is not None and not job.answer.done():
                job.answer.set_result(opinion)

    async def _answered(self, job: _Job | None) -> Opinion:
        edition = self._edition
        if self._rests("start"):
            return Opinion(failure="the policy worker does not start")
        try:
            process = await self._ready(edition)
        except (Died, OSError, TimeoutError) as error:
            await self._end()
            self._rest("start")
            log.error("the policy worker does not start: %r", error)
            return Opinion(failure="the policy worker does not start")
        if job is None:
            return Opinion()
        broken = [f"{name}: {edition.broken[name]}" for name in job.names if name in edition.broken]
        if broken:
            return Opinion(failure=broken[0])
        named = ", ".join(job.names)
        try:
            async with asyncio.timeout(self._timeout_s):
                opinion = await process.evaluate(job.names, json.dumps(job.document))
        except TimeoutError:
            await self._ran_away(job, surely=True)
            return Opinion(failure=f"{named}: took longer than {self._timeout_s:g} s")
        except (Died, OSError):
            await self._ran_away(job, surely=False)
            return Opinion(failure=f"{named}: the policy worker died while it evaluated")
        if edition is job.edition and edition.memo is not None:
            key = edition.memo.key(job.names, job.document)
            if key is not None:
                edition.memo.put(key, opinion)
        return opinion

    async def _ready(self, edition: _Edition) -> Process:
        """The process with the policies of `edition` loaded. A module that it cannot bear is left out as broken."""
        while True:
            process = self._process
            if process is None or not process.alive:
                await self._end()
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    process = self._process = await Process.start()
            elif self._loaded is edition:
                return process
            if await self._loads(process, edition):
                self._loaded = edition
                return process
            await self._end()

    async def _loads(self, process: Process, edition: _Edition) -> bool:
        """Whether `process` took all policies of `edition`; if not, one more of them is now known as broken."""
        reads: dict[str, frozenset[ast.Path] | None] = {}
        self._loaded = None
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            await process.reset()
        for policy in edition.policies.values():
            if policy.name in edition.broken:
                continue
            try:
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    reads[policy.name] = await process.load(policy)
            except (Died, TimeoutError):
                edition.broken[policy.name] = "the engine cannot read it"
                log.error("policy %s cannot be read by the engine", policy.name)
                return False
        edition.memo = edition.memo or Memo(reads)
        return True

    async def _ran_away(self, job: _Job, *, surely: bool) -> None:
        """A process that died may have been killed by someone else: only the second time the task is to blame."""
        log.warning("policies %s ran away on a request of task %s", ", ".join(job.names), job.task)
        await self._end()
        key = (job.task, job.names)
        if surely or self._rests(("died", *key)):
            self._rest(key)
        else:
            self._rest(("died", *key))

    async def _end(self) -> None:
        process, self._process, self._loaded = self._process, None, None
        if process is not None:
            await process.end()

    def _rests(self, key: Hashable) -> bool:
        return self._resting.get(key, 0.0) > asyncio.get_running_loop().time()

    def _rest(self, key: Hashable) -> None:
        now = asyncio.get_running_loop().time()
        if len(self._resting) >= MAX_RESTING:
            self._resting = {k: until for k, until in self._resting.items() if until > now}
        if len(self._resting) < MAX_RESTING:
            self._resting[key] = now + REST_S


_: type[Policies] = Worker
