"""The manifests in force, read and compiled once per change.

Every task, explanation and status asks for the rules, and compiling a few hundred manifests takes tens of
milliseconds; the documents change a few times a day. The cache is keyed by their content, so it can never be stale.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from remit.control.ports_control import Document, Unit
from remit.core.errors import NotFound
from remit.core.snapshot import Role, Rules
from remit.policy import compile as compiling
from remit.policy import manifests


class Catalog:
    """Read side of the manifests. Holds one compiled set."""

    def __init__(self) -> None:
        self._key = ""
        self._rules = Rules()

    def rules(self, unit: Unit) -> Rules:
        """The rules of the documents that `unit` sees."""
        return self.compiled(unit.documents.all())

    def compiled(self, documents: Sequence[Document]) -> Rules:
        key = hashlib.sha256(json.dumps([dict(d) for d in documents]).encode()).hexdigest()
        if key != self._key:
            # What an earlier version took and this one cannot read refuses what names it, and stops nothing else.
            self._rules = compiling.rules(manifests.lenient([dict(document) for document in documents]))
            self._key = key
        return self._rules


def parsed(documents: Iterable[Document], source: str = "stored manifest") -> list[manifests.Document]:
    """Documents as policy reads them. Raises `ManifestError` (an `Invalid`) with every mistake."""
    items: list[dict[str, Any]] = [dict(document) for document in documents]
    return manifests.from_json(items, source)


def role(rules: Rules, name: str) -> Role:
    """The role called `name`. Raises `NotFound`, naming the nearest."""
    found = rules.roles.get(name)
    if found is None:
        raise unknown("role", name, rules.roles)
    return found


def unknown(what: str, name: str, known: Iterable[str]) -> NotFound:
    """`NotFound` that names the nearest known name. `name` is shown escaped and bounded."""
    shown = ascii(name[:80])[1:-1]
    near = difflib.get_close_matches(name[:80], list(known), n=1)
    return NotFound(
        f"there is no {what} {shown}" + (f"; did you mean {near[0]}?" if near else ""), hint=f"remit get {what}"
    )
