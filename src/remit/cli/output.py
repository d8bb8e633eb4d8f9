"""What the command line prints: data on stdout, talk on stderr, nothing that can take a terminal over.

Host names, paths, commands and logs were written by agents, so all of it is escaped (`cli.escaping`); JSON is ASCII.
On a terminal, the last column of a table is cut to fit, or wrapped where it is what the table is read for; elsewhere
tables are plain text without colour and never cut.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from remit import settings
from remit.cli.escaping import safe as safe

GAP = "  "
NARROWEST = 24
COLOURS = {
    "permit": "32",
    "running": "32",
    "ok": "32",
    "pass": "32",
    "deny": "31",
    "stop": "31",
    "failed": "31",
    "revoked": "31",
    "pending": "33",
}


def line(record: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own."""
    sys.stdout.write(json.dumps(record, ensure_ascii=True, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "", wrap: bool = False) -> None:
    """Aligned columns. `empty` is said on stderr where there is no row. `wrap`: nothing of the last one is cut."""
    cells = [[safe(value) for value in row] for row in rows]
    if not cells:
        if empty:
            say(empty)
        return
    shown_there = sys.stdout.isatty()
    coloured = shown_there and not settings.environment().get("NO_COLOR")  # no-color.org
    widths = [max(len(columns[n]), *(len(row[n]) for row in cells)) for n in range(len(columns))]
    if shown_there:
        taken = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
        widths[-1] = min(widths[-1], max(NARROWEST, shutil.get_terminal_size().columns - taken))
    _write([name.upper() for name in columns], widths, coloured=False)
    for row in cells:
        first, *rest = textwrap.wrap(row[-1], widths[-1]) if wrap and row[-1] else (row[-1],)
        _write([*row[:-1], first], widths, coloured=coloured)
        for more in rest:
            _write([*("" for _ in row[:-1]), more], widths, coloured=False)


def rows(columns: Sequence[str], records: Sequence[Mapping[str, Any]], *, as_json: bool, empty: str = "") -> None:
    """Records as JSON lines, whole; or as a table of these fields."""
    if as_json:
        for record in records:
            line(record)
        return
    table(columns, [[shown(record.get(column)) for column in columns] for record in records], empty=empty)


def fields(record: Mapping[str, Any]) -> None:
    """One thing, a field a line. Empty fields are left out."""
    present = {name: shown(value) for name, value in record.items() if value not in (None, "", [], {})}
    width = max((len(name) for name in present), default=0)
    for name, value in present.items():
        sys.stdout.write(f"{safe(name).ljust(width)}{GAP}{safe(value)}\n")


def counted(number: int, what: str) -> str:
    """`1 record`, `2 records`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def text(value: str) -> None:
    """Text of several lines (a patch, a log): line ends and tabs stay, the rest is escaped."""
    sys.stdout.write(safe(value, keep="\n\t"))
    if value and not value.endswith("\n"):
        sys.stdout.write("\n")
    sys.stdout.flush()


def say(message: str) -> None:
    """Talk to the human; never data."""
    sys.stderr.write(safe(message, keep="\n") + "\n")


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """What shows (done, of all) on stderr, where a person looks at it."""
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    from rich import progress as bars
    from rich.console import Console

    with bars.Progress(console=Console(stderr=True), transient=True) as shown_there:
        bar = shown_there.add_task(what, total=None)
        yield lambda done, of: shown_there.update(bar, completed=done, total=of or None)


def shown(value: object) -> str:
    """A JSON value as a person would write it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=True)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(shown(item) for item in value) or "-"
    return str(value)


def clock(moment: object) -> str:
    """`2026-01-02T03:04:05.123456+00:00` as `2026-01-02 03:04:05Z`; anything else as it is."""
    value = str(moment or "-")
    if len(value) >= 19 and value[10] == "T" and value.endswith(("+00:00", "Z")):
        return f"{value[:10]} {value[11:19]}Z"
    return value


def _write(row: Sequence[str], widths: Sequence[int], *, coloured: bool) -> None:
    padded = [
        (cell if len(cell) <= width else cell[: width - 1] + "…").ljust(width)
        for cell, width in zip(row, widths, strict=True)
    ]
    if coloured:
        padded = [
            f"\x1b[{COLOURS[cell]}m{out}\x1b[0m" if cell in COLOURS else out
            for cell, out in zip(row, padded, strict=True)
        ]
    sys.stdout.write(GAP.join(padded).rstrip() + "\n")
