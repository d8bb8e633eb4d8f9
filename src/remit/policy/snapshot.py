"""A snapshot on its way from the control plane to a node, as JSON: whole, and named by the hash of its content."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from remit.core.errors import Invalid
from remit.core.snapshot import Revoked, Snapshot
from remit.core.task import State, Task
from remit.policy import compile as compiler
from remit.policy import manifests


def dump(
    *,
    epoch: int,
    documents: Sequence[Mapping[str, Any]],
    tasks: Iterable[Task],
    revoked: Revoked,
    keys: Mapping[str, bytes],
    sealed: Mapping[str, bytes],
) -> dict[str, Any]:
    """The JSON form. `documents` are manifests as JSON values, in any order."""
    body: dict[str, Any] = {
        "epoch": epoch,
        "documents": list(documents),
        "tasks": [_task(task) for task in tasks],
        "revoked": {
            "capabilities": sorted(revoked.capabilities),
            "credentials": sorted(revoked.credentials),
        },
        "keys": {kid: base64.b64encode(key).decode() for kid, key in keys.items()},
        "sealed": {name: base64.b64encode(blob).decode() for name, blob in sealed.items()},
    }
    return {"version": _version(body), **body}


def load(document: Mapping[str, Any], previous: Snapshot | None) -> Snapshot:
    """The snapshot that `dump` made. Compiled rules of `previous` are kept where the documents are the same.

    Raises `Invalid` where the content does not have the hash it names or is not of the shape above.
    """
    body = {key: value for key, value in document.items() if key != "version"}
    version = _version(body)
    if document.get("version") != version:
        raise Invalid("the snapshot does not have the hash that it names")
    try:
        documents = manifests.from_json(body["documents"], "snapshot")
        digest = compiler.digest(documents)
        same = previous is not None and previous.rules.digest == digest
        return Snapshot(
            version=version,
            epoch=int(body["epoch"]),
            rules=previous.rules if same and previous is not None else compiler.rules(documents),
            tasks={item["id"]: _read_task(item) for item in body["tasks"]},
            revoked=Revoked(
                capabilities=frozenset(body["revoked"]["capabilities"]),
                credentials=frozenset(body["revoked"]["credentials"]),
            ),
            keys={kid: base64.b64decode(key, validate=True) for kid, key in body["keys"].items()},
            sealed={name: base64.b64decode(blob, validate=True) for name, blob in body["sealed"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Invalid(f"the snapshot is malformed: {error!r}") from error


def _version(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _task(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "role": task.role,
        "state": task.state.value,
        "cell": task.cell,
        "created": task.created.isoformat(),
        "parent": task.parent,
    }


def _read_task(item: Mapping[str, Any]) -> Task:
    return Task(
        id=item["id"],
        role=item["role"],
        state=State(item["state"]),
        cell=int(item["cell"]),
        created=datetime.fromisoformat(item["created"]),
        parent=item.get("parent"),
    )
