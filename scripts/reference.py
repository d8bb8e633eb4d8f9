"""Writes docs/reference from the code: reasons, settings, manifests, commands. `--check` only compares.

A test runs it with --check, so that the reference cannot fall behind.
"""

from __future__ import annotations

import json
import sys
from dataclasses import MISSING, fields
from enum import EnumType
from pathlib import Path
from typing import Any

from typer.main import get_command

from remit.cli import commands, run
from remit.cli.examples import EXAMPLES
from remit.core.reason import MEANING
from remit.policy import manifests, specs
from remit.settings import Settings

OUT = Path(__file__).parent.parent / "docs" / "reference"


def reasons() -> str:
    rows = "\n".join(
        f"| `{reason.value}` | {meaning.step} | {meaning.status} | {meaning.title}. | {meaning.next} |"
        for reason, meaning in MEANING.items()
    )
    return (
        "# Reasons\n\nEvery decision carries one of these. They stand in audit records, in the body of a denial "
        "(`reason`) and in `remit why`. The order is the order in which a decision looks.\n\n"
        "| reason | step | status | means | do next |\n|---|---|---|---|---|\n" + rows + "\n"
    )


def settings() -> str:
    def default(item: Any) -> str:
        if item.default is not MISSING:
            return json.dumps(item.default)
        return {"state_dir": "`/var/lib/remit`", "run_dir": "`/run/remit`"}.get(item.name, "`{}`")

    rows = "\n".join(
        f"| `{item.name}` | `REMIT_{item.name.upper()}` | {default(item)} | {item.metadata['text']} |"
        for item in fields(Settings)
    )
    return (
        "# Settings\n\n`/etc/remit/config.toml` (or the file in `REMIT_CONFIG`) < environment < flags. Without root, "
        "directories follow XDG. In the environment a list is written `a,b`, a table `name=value,name=value`.\n\n"
        "| setting | variable | default | what it does |\n|---|---|---|---|\n" + rows + "\n"
    )


def kinds() -> str:
    parts = [
        "# Manifests\n\n`apiVersion: remit.dev/v1alpha1`. `remit schema KIND` prints the JSON Schema that these tables "
        "come from.\n"
    ]
    for kind, model in specs.KINDS.items():
        schema = manifests.schema(kind)
        parts.append(f"\n## {kind}\n\n{(model.__doc__ or '').strip()}\n")
        parts.append(_table("spec", schema["properties"]["spec"]))
    return "\n".join(parts)


def _table(path: str, schema: dict[str, Any]) -> str:
    lines = ["| field | type | required | what it is |", "|---|---|---|---|"]
    _rows(path, schema, lines)
    return "\n".join(lines) + "\n"


def _rows(path: str, schema: dict[str, Any], lines: list[str]) -> None:
    for name, field in schema.get("properties", {}).items():
        required = "yes" if name in schema.get("required", []) else ""
        said = field.get("description", "").replace("\n", " ")
        lines.append(f"| `{path}.{name}` | {_kind(field)} | {required} | {said} |")
        for option in [field, *field.get("anyOf", [])]:
            if option.get("type") == "array" and "properties" in option.get("items", {}):
                _rows(f"{path}.{name}[]", option["items"], lines)
            elif "properties" in option:
                _rows(f"{path}.{name}", option, lines)


def _kind(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        return _kind(next(option for option in field["anyOf"] if option.get("type") != "null"))
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    return str(field.get("type", "any"))


def cli() -> str:
    parts = ["# Commands\n\n`remit COMMAND --help` says the same.\n"]
    _commands("remit", get_command(commands.application()), parts)
    return "\n".join(parts)


def _commands(path: str, command: Any, parts: list[str]) -> None:
    """`command` is of the copy of click that typer carries, so it is known by what it has."""
    if hasattr(command, "commands"):
        for name in sorted(command.commands):
            _commands(f"{path} {name}", command.commands[name], parts)
        return
    parts.append(f"## `{path}`\n\n{(command.help or '').strip()}\n")
    name = path.removeprefix("remit ")
    if (usage := run.USAGE.get(name)) is not None:
        parts.append(f"```text\n{usage}```\n")
    shown = [p for p in command.params if p.name != "help"]
    if shown and usage is None:
        parts.append("\n".join(map(_parameter, shown)) + "\n")
    if name in EXAMPLES:
        parts.append("```sh\n" + "\n".join(f"remit {one}" for one in EXAMPLES[name]) + "\n```\n")


def _parameter(one: Any) -> str:
    name = ", ".join(one.opts) if one.param_type_name == "option" else one.metavar or one.name.upper()
    kind = one.type_descriptor.annotation
    choices = [one.value for one in kind] if isinstance(kind, EnumType) else []
    said = [one.help or "", f"One of: {', '.join(choices)}." if choices else ""]
    if isinstance(one.default, str | int | float) and not isinstance(one.default, bool) and one.default != "":
        said.append(f"Default: {getattr(one.default, 'value', one.default)}.")
    return f"- `{name}`: {' '.join(filter(None, said))}"


def main() -> int:
    pages = {"reasons.md": reasons(), "settings.md": settings(), "manifests.md": kinds(), "commands.md": cli()}
    stale = [name for name, text in pages.items() if not (OUT / name).exists() or (OUT / name).read_text() != text]
    if "--check" in sys.argv:
        if stale:
            print(f"docs/reference is stale: {', '.join(stale)}; run make docs")
        return bool(stale)
    OUT.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (OUT / name).write_text(text)
    print(f"wrote {', '.join(pages)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
