"""Tasks as they were created, as the audit log tells it: whoever decides a record again needs to know who asked.

Those of the time that is looked at are read at once; those that began earlier are asked for one by one, in the log and
then among the tasks that are not forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from remit.cli import audit, client
from remit.core.errors import NotFound
from remit.core.task import Task
from remit.policy import replay


def known(api: client.Client, query: Mapping[str, object]) -> Callable[[str], Task | None]:
    """What gives a task by its whole id. `query` bounds the time that is looked at."""
    within = {name: query[name] for name in ("since", "until")}
    found: dict[str, Task | None] = {}
    for record in audit.pages(api, {**within, "kind": "operator"}):
        task = replay.created(record)
        if task is not None:
            found[task.id] = task

    def one(identity: str) -> Task | None:
        if identity not in found:
            found[identity] = _earlier(api, identity)
        return found[identity]

    return one


def _earlier(api: client.Client, identity: str) -> Task | None:
    try:
        for record in audit.pages(api, {"task": identity, "kind": "operator"}):
            task = replay.created(record)
            if task is not None:
                return task
        return replay.existing(api.get(f"/v1/tasks/{client.part(identity)}"))
    except NotFound:
        return None
