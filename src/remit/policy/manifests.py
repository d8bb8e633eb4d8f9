"""Manifests read from text, with an error for each mistake that names file, line, field and what was expected.

Manifests are applied all or none, so whoever writes them needs every mistake at once, each where it stands. A node
that is handed manifests it cannot read does not stop: it keeps them, broken, so that what they were to guard refuses.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remit.core.errors import Invalid
from remit.policy import schemas, specs, text, validation
from remit.policy.text import Path

MAX_TEXT = text.MAX_BYTES
MAX_DOCUMENTS = 2000
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake. `line` counts from 1; 0 where the document did not come from text.

    `expected` says what would be right; `found` what stands there, `nearest` the valid value next to it ("": none).
    """

    file: str
    line: int = 0
    field: str = ""
    expected: str
    found: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        found = f", found {self.found}" if self.found else ""
        near = f" (did you mean {self.nearest}?)" if self.nearest else ""
        return f"{where}: {f'{self.field}: ' if self.field else ''}{self.expected}{found}{near}"


class ManifestError(Invalid):
    """All mistakes of a set of manifests at once."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), hint="remit schema KIND shows every field")
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One manifest. `raw` is it as JSON values, without `status`, which is what travels and is stored.

    `spec` is None, and `broken` says why, only in documents from `lenient`.
    """

    kind: str
    name: str
    spec: specs.Spec | None
    raw: Mapping[str, Any]
    source: str = ""
    positions: Mapping[Path, int] = field(default_factory=dict)
    blocks: frozenset[Path] = frozenset()
    broken: str | None = None

    def line(self, path: Path) -> int:
        """The line of a field, or of the nearest field above it; 0 where the document did not come from text."""
        return _line(self.positions, path)

    def problem(self, path: Path, expected: str, *, found: str = "", nearest: str = "", row: int = 0) -> Problem:
        """A mistake in this document. `row`: the line within the field's own text, from 1, where that is known."""
        line = self.line(path)
        if line and row and path in self.blocks:
            line += row
        return Problem(file=self.source, line=line, field=dotted(path), expected=expected, found=found, nearest=nearest)


def parse(manifest: str, source: str) -> list[Document]:
    """The documents of a YAML (or JSON) text. Raises `ManifestError` with every mistake in it."""
    try:
        trees = text.read(manifest)
    except text.Malformed as error:
        raise ManifestError([Problem(file=source, line=error.line, expected=error.message)]) from error
    if len(trees) > MAX_DOCUMENTS:
        raise ManifestError([Problem(file=source, expected=f"expected at most {MAX_DOCUMENTS} documents")])
    return _sound([_document(t.value, source, t.lines, t.blocks) for t in trees])


def from_json(items: Sequence[Any], source: str = "request") -> list[Document]:
    """The documents of JSON values, as they come through the API. Raises `ManifestError`."""
    if len(items) > MAX_DOCUMENTS:
        raise ManifestError([Problem(file=source, expected=f"expected at most {MAX_DOCUMENTS} documents")])
    return _sound([_document(item, f"{source}[{n}]") for n, item in enumerate(items)])


def lenient(items: Sequence[Any]) -> list[Document]:
    """The documents of JSON values, those that cannot be read as `broken`. Raises `Invalid` only for what has no kind:
    nobody can say what such a document was to guard.
    """
    seen: set[tuple[str, str]] = set()
    documents = []
    for n, item in enumerate(items):
        document, problems = _document(item, f"document {n}")
        if document is None:
            kind = item.get("kind") if isinstance(item, dict) else None
            if kind not in specs.KINDS:
                raise Invalid(f"document {n} is of no kind that is known here")
            document = _broken(item, str(kind), n, "; ".join(str(p) for p in problems[:3]))
        if (document.kind, document.name) in seen:
            document = _broken(item, document.kind, n, f"{document.kind} {document.name} is there twice")
        seen.add((document.kind, document.name))
        documents.append(document)
    return documents


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind. Raises `Invalid` for an unknown one."""
    if kind not in specs.KINDS:
        raise Invalid(f"there is no kind {kind!r}{nearest(kind, specs.KINDS)}", hint=f"kinds: {', '.join(specs.KINDS)}")
    return schemas.manifest(kind)


def near(name: str, known: Iterable[str]) -> str:
    """The known name that is next to `name`, or ""."""
    found = difflib.get_close_matches(name[:100], list(known), n=1)
    return found[0] if found else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing where nothing is near."""
    found = near(name, known)
    return f" (did you mean {found}?)" if found else ""


def located(mistake: validation.Mistake, path: Path, source: str, lines: Mapping[Path, int]) -> Problem:
    """A mistake with its place: the line of its field, or of the nearest field above it."""
    return Problem(
        file=source,
        line=_line(lines, path),
        field=dotted(path),
        expected=mistake.expected,
        found=mistake.found,
        nearest=mistake.nearest,
    )


def dotted(path: Path) -> str:
    """`spec.methods[0]`."""
    out = ""
    for step in path:
        out += f"[{step}]" if isinstance(step, int) else (f".{step}" if out else str(step))
    return out[:200]


def _sound(found: Sequence[tuple[Document | None, list[Problem]]]) -> list[Document]:
    documents = [document for document, _ in found if document is not None]
    problems = [problem for _, some in found for problem in some]
    problems += _duplicates(documents)
    if problems:
        raise ManifestError(problems)
    return documents


def _document(
    item: Any, source: str, lines: Mapping[Path, int] | None = None, blocks: frozenset[Path] = frozenset()
) -> tuple[Document | None, list[Problem]]:
    positions = lines or {}
    problems: list[Problem] = []

    def wrong(path: Path, mistake: validation.Mistake) -> None:
        problems.append(located(mistake, path, source, positions))

    if not isinstance(item, dict):
        wrong((), validation.Mistake("expected a manifest (a mapping)", validation.shown(item)))
        return None, problems
    for key in item:
        if key not in _TOP:
            wrong((key,), validation.Mistake("unknown field", nearest=near(key, _TOP)))
    if item.get("apiVersion") != specs.API_VERSION:
        mistake = validation.Mistake(f'expected "{specs.API_VERSION}"', validation.shown(item.get("apiVersion")))
        wrong(("apiVersion",), mistake)
    kind = item.get("kind")
    model = specs.KINDS.get(kind) if isinstance(kind, str) else None
    if not isinstance(kind, str) or model is None:
        expected = f"expected one of {', '.join(specs.KINDS)}"
        wrong(("kind",), validation.Mistake(expected, validation.shown(kind), near(str(kind), specs.KINDS)))
        return None, problems
    metadata = validation.validated(specs.Metadata, item.get("metadata"), ("metadata",), wrong)
    spec = validation.validated(model, item.get("spec"), ("spec",), wrong)
    if metadata is None or spec is None or problems:
        return None, problems
    raw = {key: item[key] for key in _TOP if key in item and key != "status"}
    document = Document(
        kind=kind, name=metadata.name, spec=spec, raw=raw, source=source, positions=positions, blocks=blocks
    )
    return document, problems


def _broken(item: Mapping[str, Any], kind: str, number: int, why: str) -> Document:
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    known = isinstance(name, str) and 0 < len(name) <= 63
    return Document(kind=kind, name=str(name) if known else f"?{number}", spec=None, raw=item, broken=why[:400])


def _duplicates(documents: list[Document]) -> Iterator[Problem]:
    seen: dict[tuple[str, str], Document] = {}
    for document in documents:
        first = seen.setdefault((document.kind, document.name), document)
        if first is not document:
            line = first.line(("metadata", "name"))
            where = f"{first.source}:{line}" if line else first.source
            yield document.problem(
                ("metadata", "name"), f"{document.kind} {document.name} is already defined at {where}"
            )


def _line(positions: Mapping[Path, int], path: Path) -> int:
    while path and path not in positions:
        path = path[:-1]
    return positions.get(path, 0)
