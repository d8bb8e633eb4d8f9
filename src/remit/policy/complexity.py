"""What a Rego module may look like before the engine sees it.

The engine's parser takes time exponential in the nesting of brackets (`[[[[…` of depth 30 never ends), its tree is
quadratic in the length of a chain of operators, and a long enough chain ends the process. None of that can be caught
from outside a call that never returns, so text is measured first, by reading its tokens once. What people write is far
below these limits.
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 64 << 10
MAX_LINE = 1000
MAX_LINES = 2000
MAX_DEPTH = 12
MAX_NESTING = 1 << 16
"""Sum over all opening brackets of 2^depth: about 0.1 s of the engine's parser."""
MAX_CHAIN = 64
"""Operators in one expression."""

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*|[0-9][0-9A-Za-z_.]*)
    |(?P<open>[\[({])
    |(?P<close>[\])}])
    |(?P<end>[;,])
    |(?P<operator>:=|==|!=|<=|>=|[-+*/%&|=<>.:])
    """,
    re.VERBOSE,
)
_JOINS = frozenset({"in", "with", "as", "else", "if", "contains"})
"""Words that join what stands before them with what follows."""
_BEGINS = frozenset({"not", "some", "every"})
"""Words that begin an expression and need what follows."""


def objection(module: str) -> tuple[int, str] | None:
    """(line from 1, what was expected) for a module that the engine must not be shown, or None."""
    if len(module) > MAX_CHARACTERS:
        return 0, f"expected at most {MAX_CHARACTERS} characters"
    lines = module.split("\n")
    if len(lines) > MAX_LINES:
        return 0, f"expected at most {MAX_LINES} lines"
    for number, text in enumerate(lines, 1):
        if len(text) > MAX_LINE:
            return number, f"expected lines of at most {MAX_LINE} characters"
    return _walked(module)


def _walked(module: str) -> tuple[int, str] | None:
    line, at, nesting = 1, 0, 0
    chains = [0]  # operators of the expression that is being read, at each depth of brackets
    joined = True  # whether the next token continues that expression
    while at < len(module):
        found = _TOKEN.match(module, at)
        if found is None:
            return line, f"expected Rego, found {module[at]!a}"
        kind, text = str(found.lastgroup), found.group()
        at = found.end()
        line += text.count("\n")
        if kind == "word" and text in _JOINS:
            kind = "operator"
        match kind:
            case "open":
                chains[-1] += 1
                chains.append(0)
                nesting += 1 << len(chains)
                joined = True
            case "close":
                chains = chains[:-1] or [0]
                joined = False
            case "end":
                chains[-1], joined = 0, True
            case "operator":
                chains[-1] += 1
                joined = True
            case "word" | "string":
                if not joined:
                    chains[-1] = 0  # two operands in a row: a new expression has begun
                joined = text in _BEGINS
            case _:
                pass
        if len(chains) > MAX_DEPTH or nesting > MAX_NESTING:
            return line, f"expected fewer brackets within brackets (at most {MAX_DEPTH} deep)"
        if chains[-1] > MAX_CHAIN:
            return line, f"expected expressions of at most {MAX_CHAIN} operators"
    return None
