"""YAML (and so JSON) read into plain values, every value with its line.

YAML can expand a kilobyte into gigabytes (aliases), hide a key behind another (duplicates, merges) and construct
objects (tags). Only what JSON can say is read here, in one pass over the parser's events, bounded in size and depth,
so nothing is built before it has been looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode

MAX_BYTES = 1 << 20
MAX_DEPTH = 32

Path = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_WORDS = {"true": True, "false": False}


class Malformed(ValueError):
    """`line` counts from 1; 0 where it is not known. `message` is one sentence without the place."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One document of a text. `lines`: field path → line. `blocks`: paths whose text begins on the line below (`|`)."""

    value: Any
    lines: Mapping[Path, int] = field(default_factory=dict)
    blocks: frozenset[Path] = frozenset()


def read(text: str) -> list[Tree]:
    """The documents of `text`, empty ones left out. Raises `Malformed`."""
    if len(text) > MAX_BYTES or len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise Malformed(0, f"more than {MAX_BYTES} bytes")
    yaml = YAML(typ="safe", pure=True)
    found: list[Tree] = []
    builder = _Builder(yaml)
    try:
        for event in yaml.parse(text):
            if isinstance(event, DocumentEndEvent):
                if builder.value is not None:
                    found.append(Tree(value=builder.value, lines=builder.lines, blocks=frozenset(builder.blocks)))
                builder = _Builder(yaml)
            else:
                builder.take(event)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise Malformed(mark.line + 1 if mark else 0, f"not valid YAML: {what}") from error
    except (ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed(0, f"not valid YAML: {error}") from error
    return found


@dataclass(slots=True)
class _Open:
    """A collection that is being read. `key` is the one that waits for its value."""

    value: dict[str, Any] | list[Any]
    path: Path
    key: str | None = None


class _Builder:
    """Builds one document from parser events."""

    def __init__(self, yaml: Any) -> None:
        self._yaml = yaml
        self._open: list[_Open] = []
        self.value: Any = None
        self.lines: dict[Path, int] = {}
        self.blocks: set[Path] = set()

    def take(self, event: Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 0
        match event:
            case AliasEvent():
                raise Malformed(line, "YAML aliases are not allowed")
            case MappingStartEvent() | SequenceStartEvent():
                if event.tag is not None and event.tag not in (_TAG + "map", _TAG + "seq"):
                    raise Malformed(line, f"the YAML tag {ascii(event.tag)[:60]} is not allowed")
                if len(self._open) >= MAX_DEPTH:
                    raise Malformed(line, f"nested more than {MAX_DEPTH} deep")
                empty: dict[str, Any] | list[Any] = {} if isinstance(event, MappingStartEvent) else []
                path = self._place(empty, line)
                self._open.append(_Open(value=empty, path=path))
            case MappingEndEvent() | SequenceEndEvent():
                self._open.pop()
            case ScalarEvent():
                top = self._open[-1] if self._open else None
                if top is not None and isinstance(top.value, dict) and top.key is None:
                    self._name(top, event, line)
                else:
                    path = self._place(self._scalar(event, line), line)
                    if event.style == "|":
                        self.blocks.add(path)
            case _:
                pass

    def _name(self, top: _Open, event: ScalarEvent, line: int) -> None:
        try:
            key = _paired(str(event.value))
        except ValueError as error:
            raise Malformed(line, "not valid YAML: a key is no str") from error
        if key in top.value:
            raise Malformed(line, f"not valid YAML: found duplicate key {ascii(key)[:80]}")
        if key == "<<" and event.style is None:
            raise Malformed(line, "YAML merge keys are not allowed")
        top.key = key
        self.lines[(*top.path, key)] = line

    def _place(self, value: Any, line: int) -> Path:
        if not self._open:
            self.value = value
            self.lines[()] = line
            return ()
        top = self._open[-1]
        if isinstance(top.value, dict):
            if top.key is None:
                raise Malformed(line, "not valid YAML: a key is not plain text")
            path = (*top.path, top.key)
            top.value[top.key] = value
            top.key = None
            return path
        path = (*top.path, len(top.value))
        top.value.append(value)
        self.lines[path] = line
        return path

    def _scalar(self, event: ScalarEvent, line: int) -> Any:
        tag = event.tag
        if tag is None or tag == "!":
            tag = str(self._yaml.resolver.resolve(ScalarNode, event.value, event.implicit))
        kind = tag.removeprefix(_TAG)
        try:
            match kind:
                case "str" | "timestamp":
                    return _paired(str(event.value))
                case "null":
                    return None
                case "bool":
                    return _WORDS[str(event.value).lower()]
                case "int" | "float":
                    node = ScalarNode(tag, event.value, start_mark=event.start_mark)
                    return self._yaml.constructor.construct_object(node, deep=True)
        except (KeyError, ValueError) as error:
            raise Malformed(line, f"not valid YAML: {ascii(event.value)[:60]} is no {kind}") from error
        raise Malformed(line, f"the YAML tag {ascii(tag)[:60]} is not allowed")


def _paired(text: str) -> str:
    """JSON writes characters above U+FFFF as two escapes, which YAML reads as two characters."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    return text
