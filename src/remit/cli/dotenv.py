"""`.env` files, read without doing anything: no variable is put in for another, no command runs.

There is no standard; this is what dotenv of Ruby, Node and Python and a shell read alike: `NAME=value`, with `export`
before it or not, `#` comments, single quotes (as it is), double quotes (`\\n \\r \\t \\" \\\\ \\$`), both over several
lines. What they read differently (`${OTHER}`, `$(command)`, text after a closing quote) is refused with its line, and
never with its value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from remit.core.errors import Invalid

MAX_BYTES = 1 << 20
_NAME = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_BLANK = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE = re.compile(r"[^\n]*")
_COMMENT = re.compile(r"(?:^|[ \t]+)#.*")
_EXPANDS = re.compile(r"(?<!\\)\$[{(]|`")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def parse(text: str, shown: str) -> Mapping[str, str]:
    """Values by name; of a name that is there twice the last. `Invalid`: with the line, as `shown`:LINE."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        while at < len(text) and text[at] in " \t":
            at += 1
        if blank := _BLANK.match(text, at):
            at = max(blank.end(), at + 1)
            continue
        where = f"{shown}:{text.count(chr(10), 0, at) + 1}"
        name = _NAME.match(text, at)
        if name is None:
            raise Invalid(f"{where}: this is no NAME=value")
        found[name[1]], at = _value(text, name.end(), where)
    return found


def _value(text: str, at: int, where: str) -> tuple[str, int]:
    if quoted := _SINGLE.match(text, at):
        return quoted[1], _end(text, quoted.end(), where)
    if quoted := _DOUBLE.match(text, at):
        if _EXPANDS.search(quoted[1]):
            raise _expands(where)
        value = re.sub(r"\\(.)", lambda one: _ESCAPES.get(one[1], one[1]), quoted[1], flags=re.DOTALL)
        return value, _end(text, quoted.end(), where)
    if text[at : at + 1] in ("'", '"'):
        raise Invalid(f"{where}: a quote is not closed")
    bare = _BARE.match(text, at)
    assert bare is not None
    value = _COMMENT.sub("", bare[0]).rstrip(" \t\r")
    if _EXPANDS.search(value):
        raise _expands(where)
    return value, bare.end() + 1


def _end(text: str, at: int, where: str) -> int:
    rest = _BLANK.match(text, at)
    if rest is None:
        raise Invalid(f"{where}: there is text behind the closing quote")
    return max(rest.end(), at + 1)


def _expands(where: str) -> Invalid:
    return Invalid(f"{where}: another variable or a command stands in the value", hint="write its value, or use '…'")
