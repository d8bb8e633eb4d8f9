"""`apply`, `get`, `remove`, `schema`: manifests from files into force.

Files are read here, so that a mistake can be shown with its file and line before anything is sent. A policy may name
its Rego in a file beside the manifest (`spec.file`); it is put in place of that field, on the same line, so that the
lines of everything else still count.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from remit.cli import client, options, output
from remit.core.errors import Invalid, NotFound
from remit.policy import manifests

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
MAX_FILES = 500
MAX_BYTES = 1 << 20
MAX_REGO_BYTES = 256 << 10
PLURALS = {"Role": "roles", "Capability": "capabilities", "Credential": "credentials", "Policy": "policies"}
_KINDS = {plural: kind for kind, plural in PLURALS.items()} | {kind.lower(): kind for kind in PLURALS}


def apply(
    files: Annotated[list[str], typer.Option("--file", "-f", help="File, directory, or - for stdin. Repeatable.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, change nothing.")] = False,
    as_json: options.Json = False,
) -> None:
    """Put manifests in force: all of them, or none."""
    documents = read(files)
    body = {"documents": [dict(document.raw) for document in documents], "dry_run": dry_run}
    with client.connected() as api:
        try:
            answer = api.post("/v1/apply", body)
        except Invalid as error:
            raise Invalid(located(error.detail, documents), hint=error.hint) from None
    if as_json:
        output.line(answer)
        return
    output.table(("kind", "name", "change"), [(i["kind"], i["name"], i["change"]) for i in answer["applied"]])
    if dry_run:
        output.say("nothing was changed (--dry-run)")


def get(
    kind: Annotated[str, typer.Argument(help="roles, capabilities, credentials or policies.")],
    name: Annotated[str | None, typer.Argument(help="One of them, whole.")] = None,
    as_json: options.Json = False,
) -> None:
    """Show manifests that are in force."""
    path = f"/v1/{PLURALS[_kind(kind)]}"
    with client.connected() as api:
        if name is not None:
            document = api.get(f"{path}/{client.part(name)}")
            if as_json:
                output.line(document)
            else:
                _yaml().dump(document, sys.stdout)
            return
        found = api.get(path)["items"]
    if as_json:
        output.rows((), found, as_json=True)
        return
    rows = [(d["metadata"]["name"], _summary(d)) for d in found]
    output.table(("name", "what"), rows, empty=f"there are no {PLURALS[_kind(kind)]}; remit apply -f FILE makes some")


def remove(
    kind: Annotated[str, typer.Argument(help="role, capability, credential or policy.")],
    name: Annotated[str, typer.Argument(help="Its name.")],
    as_json: options.Json = False,
) -> None:
    """Take a manifest away. Refused while another one names it."""
    with client.connected() as api:
        answer = api.delete(f"/v1/{PLURALS[_kind(kind)]}/{client.part(name)}")
    if as_json:
        output.line(answer)
    else:
        output.say(f"{_kind(kind)} {name} removed")


def schema(kind: Annotated[str | None, typer.Argument(help="Role, Capability, Credential or Policy.")] = None) -> None:
    """Print the JSON Schema of a kind, or of all four in one object."""
    if kind is not None:
        shown: Any = manifests.schema(_kind(kind))
    else:
        shown = {name: manifests.schema(name) for name in PLURALS}
    sys.stdout.write(json.dumps(shown, indent=2) + "\n")


def read(files: list[str]) -> list[manifests.Document]:
    """The documents of files, directories (not below them) and `-`. `ManifestError` names every mistake in them."""
    documents: list[manifests.Document] = []
    problems: list[manifests.Problem] = []
    for source in _sources(files):
        try:
            documents += manifests.parse(_text(source), source)
        except manifests.ManifestError as error:
            problems += error.problems
    if problems:
        raise manifests.ManifestError(problems)
    if not documents:
        raise Invalid(f"there is no manifest in {', '.join(files)}", hint="remit schema shows what one looks like")
    return documents


def located(detail: str, documents: Sequence[manifests.Document]) -> str:
    """The control plane's words on `documents[n].field`, with the file and the line where a person wrote it."""

    def where(found: re.Match[str]) -> str:
        n, field = int(found[1]), found[2] or ""
        if n >= len(documents):
            return found[0]
        lines = {manifests.dotted(path): line for path, line in documents[n].positions.items()}
        line = lines.get(field) or lines.get(field.partition("[")[0]) or lines.get("kind", 0)
        place = f"{documents[n].source}:{line}" if line else documents[n].source
        return f"{place}: {field}: " if field else f"{place}: "

    return re.sub(r"^document\[(\d+)\]: (?:([A-Za-z0-9_.\[\]-]+): )?", where, detail, flags=re.MULTILINE)


def _sources(files: list[str]) -> list[str]:
    found: list[str] = []
    for name in files:
        path = Path(name)
        if name != "-" and path.is_dir():
            found += sorted(str(p) for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
        else:
            found.append(name)
    if len(found) > MAX_FILES:
        raise Invalid(f"{len(found)} files are more than {MAX_FILES}")
    return found


def text_of(path: Path) -> str:
    """A file that people wrote, as it is."""
    return _decoded(_file(path, MAX_BYTES), str(path))


def _decoded(data: bytes, source: str) -> str:
    if len(data) > MAX_BYTES:
        raise Invalid(f"{source} is larger than {MAX_BYTES} bytes", hint="give several files, or a directory of them")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Invalid(
            f"{source} is not UTF-8 text", hint="manifests are YAML in UTF-8; remit schema shows one"
        ) from error


def _text(source: str) -> str:
    data = sys.stdin.buffer.read(MAX_BYTES + 1) if source == "-" else _file(Path(source), MAX_BYTES)
    text = _decoded(data, source)
    return with_rego(text, Path.cwd() if source == "-" else Path(source).parent, source)


def with_rego(text: str, directory: Path, source: str) -> str:
    """`text` with each `spec.file` of a Policy replaced by `rego` and the file's content, lines kept."""
    if "file" not in text:
        return text
    try:
        yaml = YAML(typ="rt", pure=True)
        if any(isinstance(event, AliasEvent) for event in yaml.parse(text)):
            return text  # `manifests.parse` refuses it, with its line
        found = [spot for node in YAML(typ="rt", pure=True).compose_all(text) for spot in _file_fields(node)]
    except (YAMLError, RecursionError):
        return text
    for key, value in reversed(found):
        path = directory / value.value
        if Path(value.value).is_absolute() or ".." in Path(value.value).parts:
            line = value.start_mark.line + 1
            raise Invalid(f"{source}:{line}: spec.file: expected a path below the manifest's directory")
        try:
            rego = _file(path, MAX_REGO_BYTES).decode()
        except UnicodeDecodeError as error:
            raise Invalid(f"{path} is not UTF-8 text") from error
        text = text[: key.start_mark.index] + f"rego: {json.dumps(rego)}" + text[value.end_mark.index :]
    return text


def _file_fields(node: Node | None) -> list[tuple[ScalarNode, ScalarNode]]:
    top = _entries(node)
    kind, spec = top.get("kind"), top.get("spec")
    if kind is None or kind[1].value != "Policy" or spec is None:
        return []
    field = _entries(spec[1]).get("file")
    return [field] if field is not None and isinstance(field[1], ScalarNode) else []


def _entries(node: Node | None) -> dict[str, tuple[Any, Any]]:
    if not isinstance(node, MappingNode):
        return {}
    return {key.value: (key, value) for key, value in node.value if isinstance(key, ScalarNode)}


def _file(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}", hint="give a file, a directory, or - for standard input") from error
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise Invalid(f"{path} is larger than {limit} bytes")
    return data


def _kind(text: str) -> str:
    kind = _KINDS.get(text.lower())
    if kind is None:
        raise Invalid(f"there is no kind {text!r}{manifests.nearest(text, list(_KINDS))}", hint="remit get --help")
    return kind


def _summary(document: dict[str, Any]) -> str:
    spec = document.get("spec", {})
    for field in ("description", "capabilities", "hosts"):
        if spec.get(field):
            return output.shown(spec[field])
    return ""


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = False
    return yaml
