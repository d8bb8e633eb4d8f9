"""Text that others wrote, as a terminal may be shown it. Standard library only: the fast commands use it too.

A terminal obeys control characters (ECMA-48), shows bidirectional ones as something else than they are, and some not
at all; a name with one of those reads like another. Every one is shown as its escape.
"""

from __future__ import annotations

_INVISIBLE = frozenset(
    chr(code)
    for first, last in (
        *((0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800)),
        *((0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0100, 0xE01EF)),
    )
    for code in range(first, last + 1)
)
"""Of what Python calls printable: Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties.txt), and the empty
Braille pattern."""


def safe(text: object, *, keep: str = "") -> str:
    """`text` with everything escaped that does not show as itself, except what is in `keep`."""
    value = "" if text is None else str(text)
    if value.isascii() and value.isprintable():
        return value
    return "".join(c if c in keep or (c.isprintable() and c not in _INVISIBLE) else _escaped(c) for c in value)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
