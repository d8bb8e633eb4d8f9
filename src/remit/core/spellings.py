"""How a secret can stand in an answer: as it is, and as the usual encoders write it.

Honest servers repeat what they were sent: debug pages, error pages, redirects, logs in JSON. Each of them spells it
with a library, and what those libraries make of a byte string is enumerated here (RFC 3986 §2.1, RFC 4648 §§4, 5, 8,
RFC 8259 §7, and the sets that JavaScript, Python, Go, Java and PHP leave unescaped). Not covered, because a server
would have to mean it: compression, encryption, hashes, pieces, mixed spellings, line breaks within, other alphabets
than those that have ASCII in them and UTF-16 and UTF-32.
Base64 also leaves up to four bits at either end, in a character that the neighbours share.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import quote

SHORTEST = 8
"""Bytes: a shorter secret would be found, and spoilt, in answers that do not hold it."""
FILL = b"*"

_UNESCAPED = ("", "/", "!~*'()", ";,/?:@&=+$#-_.!~*'()")
"""What URL encoders leave besides letters, digits and `-._~`."""
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def table(secrets: Iterable[tuple[bytes, bytes]], *, level: bool) -> dict[bytes, bytes]:
    """Every spelling of every secret, with what stands for it: its stand-in (second of each pair) in that spelling.

    `level`: of the same length as what it replaces, cut or filled with `*`. Secrets below `SHORTEST` are left out.
    """
    found: dict[bytes, bytes] = {}
    for value, placeholder in secrets:
        if len(value) < SHORTEST:
            continue
        fitted = _fit(placeholder, len(value))
        for spell in _SPELLINGS:
            for form, plain, same in zip(spell(value), spell(placeholder), spell(fitted), strict=True):
                mark = (same if len(same) == len(form) else _fit(placeholder, len(form))) if level else plain
                found.setdefault(form, mark)
        for form, mark in zip(_base64(value), _base64(fitted), strict=True):
            found.setdefault(form, mark)
            for spell in (_percent, _json):
                for outer in spell(form):
                    found.setdefault(outer, _fit(mark, len(outer)))
    return found


def _fit(text: bytes, size: int) -> bytes:
    return text[:size].ljust(size, FILL)


def _raw(value: bytes) -> Iterator[bytes]:
    yield value
    yield value.decode("latin-1").encode()  # a header that was read as ISO 8859-1 and written as UTF-8


def _percent(value: bytes) -> Iterator[bytes]:
    every = "".join(f"%{byte:02X}" for byte in value)
    forms = [every, *(quote(value, safe=safe) for safe in _UNESCAPED)]
    forms += [form.replace("~", "%7E") for form in forms[1:3]]
    forms += [form.replace("%20", "+") for form in (*forms[1:3], *forms[5:])]
    forms.append(forms[5].replace("%2A", "*").replace("%20", "+"))  # HTML forms
    for form in forms:
        yield form.encode()
        yield _lower_escapes(form).encode()


def _lower_escapes(form: str) -> str:
    first, *others = form.split("%")
    return "%".join((first, *(part[:2].lower() + part[2:] for part in others)))


def _json(value: bytes) -> Iterator[bytes]:
    for text in (_text(value), value.decode("latin-1")):
        plain, ascii_ = json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]
        for form in (plain, ascii_):
            careful = form.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
            for one in (form, careful, careful.replace("'", "\\u0027"), careful.replace("+", "\\u002b")):
                yield one.encode(errors="surrogateescape")
                yield one.replace("/", "\\/").encode(errors="surrogateescape")
        every = [f"\\u{unit:04x}" for unit in _units(text)]
        yield "".join(every).encode()
        yield "".join("\\u" + unit[2:].upper() for unit in every).encode()


def _units(text: str) -> Iterator[int]:
    data = text.encode("utf-16-be", "surrogatepass")
    return (int.from_bytes(data[n : n + 2]) for n in range(0, len(data), 2))


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def _markup(value: bytes) -> Iterator[bytes]:
    text = _text(value)
    for quotes in ((), ("&quot;", "&#x27;"), ("&#34;", "&#39;"), ("&quot;", "&#39;"), ("&quot;", "&apos;")):
        form = html.escape(text, quote=False)
        if quotes:
            form = form.replace('"', quotes[0]).replace("'", quotes[1])
        yield form.encode(errors="surrogateescape")


def _wide(value: bytes) -> Iterator[bytes]:
    """Texts that say by their first bytes what they are written in (RFC 4627 §3, XML 1.0 appendix F)."""
    for alphabet in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        yield _text(value).encode(alphabet, "surrogatepass")


def _hex(value: bytes) -> Iterator[bytes]:
    yield value.hex().encode()
    yield value.hex().upper().encode()


def _base64(value: bytes) -> Iterator[bytes]:
    """At its three alignments, without the characters that its neighbours share; also with the alphabet for URLs."""
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + value)
        form = whole[(0, 2, 3)[before] : (before + len(value)) * 8 // 6]
        yield form
        yield form.translate(_URL_SAFE)


_SPELLINGS: tuple[Callable[[bytes], Iterator[bytes]], ...] = (_raw, _percent, _json, _markup, _wide, _hex)

Table = Mapping[bytes, bytes]
