"""How the client of a refused connection is told why, in the place that its own protocol has for that.

A closed socket tells an agent nothing, so it retries. Each protocol here lets a server say something before it closes;
what is said is one line of text without control characters. Protocols without such a place get nothing.
Sources: RFC 8446 §6.2 (TLS); RFC 4253 §4.2, §6, §11.1 (SSH); RFC 5321 §3.1 (SMTP); RFC 959 §4.2 (FTP); RFC 1939 §3
(POP3); RFC 3501 §7.1.5 (IMAP); MySQL "ERR_Packet"; PostgreSQL 17 "ErrorResponse"; Redis RESP ("simple errors"); git,
gitprotocol-pack ("Git Transport": an ERR pkt-line ends it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from remit.boundary.opaque import Recognised
from remit.control.decide import Denied

TEXT_MAX = 400
"""What OpenSSH shows of a message, and well below what a line of SMTP may have (512)."""
TLS_ALERT = b"\x15\x03\x03\x00\x02\x02\x31"
"""A record with a fatal alert: access_denied, "the sender decided not to proceed with negotiation"."""
FEATURE_NOT_SUPPORTED = "0A000"
HOST_NOT_ALLOWED = 1
"""SSH_DISCONNECT_HOST_NOT_ALLOWED_TO_CONNECT"""
HOST_NOT_PRIVILEGED = 1130
"""MySQL's error for a client that may not connect."""


def explained(found: Recognised, denied: Denied) -> bytes:
    """What to tell the client before the connection is closed; empty where its protocol has no place for words."""
    meaning = denied.refusal.meaning
    title = f"remit: {meaning.title}"
    detail = f"{denied.refusal.detail} (reason {denied.refusal.reason.value}, record {denied.record})"
    if found.postgresql:
        return postgresql_error(title, detail, meaning.next)
    said = _WORDS.get(found.protocol)
    return said(_line(f"{title}: {detail}; {meaning.next}")) if said else b""


def postgresql_error(message: str, detail: str, hint: str) -> bytes:
    """ErrorResponse that ends the session. Text is cut to what a log line can bear; NUL cannot be carried."""
    fields = (("S", "FATAL"), ("V", "FATAL"), ("C", FEATURE_NOT_SUPPORTED), ("M", message), ("D", detail), ("H", hint))
    body = b"".join(kind.encode() + text.replace("\0", "")[:500].encode() + b"\0" for kind, text in fields) + b"\0"
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body


def ssh_disconnect(text: bytes) -> bytes:
    """A server's greeting and SSH_MSG_DISCONNECT, before any keys: the packet is plain, padded to 8 bytes."""
    payload = b"\x01" + HOST_NOT_ALLOWED.to_bytes(4, "big") + _string(text) + _string(b"")
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    packet = bytes([padding]) + payload + bytes(padding)
    return b"SSH-2.0-remit\r\n" + len(packet).to_bytes(4, "big") + packet


def mysql_error(text: bytes) -> bytes:
    """ERR_Packet in place of the server's greeting, which has no SQLSTATE yet."""
    payload = b"\xff" + HOST_NOT_PRIVILEGED.to_bytes(2, "little") + text
    return len(payload).to_bytes(3, "little") + b"\0" + payload


def git_error(text: bytes) -> bytes:
    """A pkt-line: its own length first, in four hexadecimal digits."""
    line = b"ERR " + text
    return b"%04x%b" % (len(line) + 4, line)


def _string(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


def _line(text: str) -> bytes:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:TEXT_MAX]).encode()


_WORDS: Mapping[str, Callable[[bytes], bytes]] = {
    "redis": lambda text: b"-ERR " + text + b"\r\n",
    "ssh": ssh_disconnect,
    "tls": lambda text: TLS_ALERT,
    "mysql": mysql_error,
    "git": git_error,
    "smtp": lambda text: b"554 5.7.1 " + text + b"\r\n",
    "ftp": lambda text: b"530 " + text + b"\r\n",
    "pop3": lambda text: b"-ERR " + text + b"\r\n",
    "imap": lambda text: b"* BYE " + text + b"\r\n",
}
