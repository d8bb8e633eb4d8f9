"""Manifests read from text, with an error for each mistake that names file, line, field and what was expected.

People write manifests, and hostile ones can be applied too: size, depth and number are bounded, YAML aliases (which
can blow a kilobyte up to gigabytes) and duplicate keys are refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from remit.core.errors import Invalid
from remit.policy import specs

MAX_TEXT = 1 << 20
MAX_DEPTH = 32
MAX_DOCUMENTS = 2000

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `line` counts from 1; 0 where the document did not come from text."""

    source: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line else self.source
        return f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}"


class ManifestError(Invalid):
    """All mistakes of a set of manifests at once."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), hint="remit schema KIND shows every field")
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One manifest. `raw` is it as JSON values, which is what travels and is stored."""

    kind: str
    name: str
    spec: specs.Spec
    raw: Mapping[str, Any]
    source: str = ""
    lines: Mapping[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of a field, or of the nearest field above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def problem(self, path: Path, message: str) -> Problem:
        return Problem(self.source, self.line(path), _dotted(path), message)


def parse(text: str, source: str) -> list[Document]:
    """The documents of a YAML (or JSON) text. Raises `ManifestError` with every mistake in it."""
    if len(text) > MAX_TEXT:
        raise ManifestError([Problem(source, 0, "", f"more than {MAX_TEXT} bytes")])
    loader = YAML(typ="rt", pure=True)
    loader.allow_duplicate_keys = False
    try:
        _bounded(text, source)
        loaded = list(loader.load_all(text))
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ManifestError([Problem(source, mark.line + 1 if mark else 0, "", f"not valid YAML: {what}")]) from error
    documents: list[Document] = []
    problems: list[Problem] = []
    for item in loaded:
        if item is None:
            continue
        lines: dict[Path, int] = {}
        _positions(item, (), lines)
        document = _document(_plain(item), source, lines, problems)
        if document is not None:
            documents.append(document)
    problems += _duplicates(documents)
    if problems:
        raise ManifestError(problems)
    return documents


def from_json(items: list[dict[str, Any]], source: str = "request") -> list[Document]:
    """The documents of JSON values. Raises `ManifestError`."""
    problems: list[Problem] = []
    if len(items) > MAX_DOCUMENTS:
        raise ManifestError([Problem(source, 0, "", f"more than {MAX_DOCUMENTS} documents")])
    found = [_document(item, f"{source}[{n}]", {}, problems) for n, item in enumerate(items)]
    documents = [document for document in found if document is not None]
    problems += _duplicates(documents)
    if problems:
        raise ManifestError(problems)
    return documents


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind. Raises `Invalid` for an unknown one."""
    if kind not in specs.KINDS:
        raise Invalid(f"there is no kind {kind!r}", hint=f"kinds: {', '.join(specs.KINDS)}")
    spec = specs.KINDS[kind].model_json_schema(by_alias=True)
    definitions = spec.pop("$defs", {})
    metadata = specs.Metadata.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"https://remit.dev/schemas/v1alpha1/{kind.lower()}.json",
        "title": kind,
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": specs.API_VERSION},
            "kind": {"const": kind},
            "metadata": metadata,
            "spec": spec,
            "status": {"type": "object"},
        },
        "$defs": definitions,
    }


def nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    """` (did you mean X?)`, or nothing where nothing is near."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _bounded(text: str, source: str) -> None:
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, AliasEvent):
            raise ManifestError([Problem(source, line, "", "YAML aliases are not allowed")])
        if isinstance(event, CollectionStartEvent):
            depth += 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ManifestError([Problem(source, line, "", f"nested more than {MAX_DEPTH} deep")])


def _document(item: Any, source: str, lines: dict[Path, int], problems: list[Problem]) -> Document | None:
    def wrong(path: Path, message: str) -> None:
        at = path
        while at and at not in lines:
            at = at[:-1]
        problems.append(Problem(source, lines.get(at, 0), _dotted(path), message))

    if not isinstance(item, dict):
        wrong((), f"expected a manifest (a mapping), found {type(item).__name__}")
        return None
    for key in item:
        if key not in ("apiVersion", "kind", "metadata", "spec", "status"):
            wrong(
                (str(key),), f"unknown field{nearest(str(key), ['apiVersion', 'kind', 'metadata', 'spec', 'status'])}"
            )
    if item.get("apiVersion") != specs.API_VERSION:
        wrong(("apiVersion",), f'expected "{specs.API_VERSION}", found {_found(item.get("apiVersion"))}')
    kind = item.get("kind")
    model = specs.KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        expected = ", ".join(specs.KINDS)
        wrong(("kind",), f"expected one of {expected}; found {_found(kind)}{nearest(str(kind), specs.KINDS)}")
        return None
    before = len(problems)
    metadata = _validated(specs.Metadata, item.get("metadata"), ("metadata",), wrong)
    spec = _validated(model, item.get("spec"), ("spec",), wrong)
    if metadata is None or spec is None or len(problems) > before:
        return None
    raw = {k: item[k] for k in ("apiVersion", "kind", "metadata", "spec") if k in item}
    return Document(kind=str(kind), name=metadata.name, spec=spec, raw=raw, source=source, lines=lines)


def _validated(model: type[Any], value: Any, at: Path, wrong: Any) -> Any:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            path = (*at, *item["loc"])
            if item["type"] == "extra_forbidden":
                known = _fields(model, item["loc"][:-1])
                wrong(path, f"unknown field{nearest(str(item['loc'][-1]), known)}")
            elif item["type"] == "missing":
                wrong(path, "expected a value, found nothing")
            else:
                message = item["msg"].removeprefix("Value error, ")
                wrong(path, f"{message}; found {_found(item['input'])}")
        return None


def _fields(model: type[Any], loc: tuple[str | int, ...]) -> list[str]:
    for step in loc:
        if isinstance(step, int):
            continue
        match = [f for f in model.model_fields.values() if f.alias == step]
        inner = match[0].annotation if match else None
        candidates = [inner, *getattr(inner, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and hasattr(c, "model_fields")), model)
    return [str(info.alias or name) for name, info in model.model_fields.items()]


def _duplicates(documents: list[Document]) -> Iterator[Problem]:
    seen: dict[tuple[str, str], Document] = {}
    for document in documents:
        first = seen.setdefault((document.kind, document.name), document)
        if first is not document:
            where = f"{first.source}:{first.line(('metadata', 'name'))}"
            yield document.problem(
                ("metadata", "name"), f"{document.kind} {document.name} is already defined at {where}"
            )


def _positions(node: Any, path: Path, lines: dict[Path, int]) -> None:
    if isinstance(node, CommentedMap | CommentedSeq):
        lines.setdefault(path, node.lc.line + 1)
        entries = node.items() if isinstance(node, CommentedMap) else enumerate(node)
        for key, value in entries:
            line, _ = node.lc.key(key) if isinstance(node, CommentedMap) else node.lc.item(key)
            lines[(*path, key)] = line + 1
            _positions(value, (*path, key), lines)


def _plain(node: Any) -> Any:
    """JSON values only: ruamel's scalar subclasses and YAML's dates become what JSON would hold."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)


def _found(value: object) -> str:
    if value is None:
        return "nothing"
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _dotted(path: Path) -> str:
    out = ""
    for step in path:
        out += f"[{step}]" if isinstance(step, int) else (f".{step}" if out else str(step))
    return out
