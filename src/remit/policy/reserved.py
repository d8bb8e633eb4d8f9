"""Names that no manifest may set: headers that belong to HTTP or to the boundary, variables that belong to the cell.

A header that frames a message, names a hop or tells the boundary something would let a manifest undo a decision after
it was made (request smuggling, forged identity, unscrubbed ranges). A variable that loads code, finds programs or
chooses whom to trust would let a manifest, or an agent's placeholder, break the cell from inside.
Sources: RFC 9110 §7.6.1 (connection), RFC 9112 §6 (framing), ld.so(8), the trust stores that clients read.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^`|~-]{1,64}")
"""RFC 9110 §5.6.2 in lower case, without `_`: servers read `a_b` and `a-b` as one (CGI)."""

_FRAMING = re.compile(
    r"connection|content-length|expect|forwarded|host|keep-alive|te|trailer|transfer-encoding|upgrade|via|"
    r"accept-encoding|range|if-range|http2-settings"
)
"""`accept-encoding` and the ranges: what a response is scrubbed of must be readable, and whole."""
_BOUNDARY = ("x-remit-", "x-envoy-", "x-forwarded-", "proxy-", "sec-websocket-", "grpc-")
_AUTHORITY = frozenset({"authorization", "cookie", "set-cookie", "x-real-ip"})

_LOADER = re.compile(
    r"(LD_|DYLD_|GLIBC_|MALLOC_|BASH_FUNC_|REMIT_).*|"
    r"ENV|BASH_ENV|IFS|SHELLOPTS|BASHOPTS|PS4|PROMPT_COMMAND|HOME|USER|LOGNAME|SHELL|TMPDIR|TERM|PWD"
)
_CODE = re.compile(
    r"PATH|PYTHON(PATH|HOME|STARTUP|INSPECT|BREAKPOINT|USERBASE|PLATLIBDIR|EXECUTABLE)|NODE_(OPTIONS|PATH)|PERL5?(OPT|LIB|DB)|"
    r"RUBY(OPT|LIB)|(JAVA|JDK_JAVA)_(TOOL_)?OPTIONS|_JAVA_OPTIONS|CLASSPATH|LUA_(PATH|CPATH|INIT)|"
    r"GIT_(SSH|SSH_COMMAND|ASKPASS|EXEC_PATH|CONFIG.*|PROXY_COMMAND|EXTERNAL_DIFF|PAGER|EDITOR)|"
    r"(EDITOR|VISUAL|PAGER|BROWSER)|(?i:(https?|all|no|ftp)_proxy)"
)
_TRUST = re.compile(
    r"SSL_CERT_(FILE|DIR)|SSLKEYLOGFILE|(REQUESTS|CURL|AWS)_CA_BUNDLE|PIP_CERT|GIT_SSL_(CAINFO|CAPATH|NO_VERIFY)|"
    r"NODE_EXTRA_CA_CERTS|NODE_TLS_REJECT_UNAUTHORIZED|CARGO_HTTP_CAINFO|DENO_(CERT|TLS_CA_STORE)|"
    r"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE|NIX_SSL_CERT_FILE|GRPC_DEFAULT_SSL_ROOTS_FILE_PATH|CODEX_CA_CERTIFICATE|"
    r"PYTHONHTTPSVERIFY|JAVA_TOOL_OPTIONS"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def credential_header(name: str) -> bool:
    """Whether a credential may be presented in the header `name` (any case)."""
    lower = name.lower()
    return _TOKEN.fullmatch(lower) is not None and _FRAMING.fullmatch(lower) is None and not lower.startswith(_BOUNDARY)


def obligation_header(name: str) -> bool:
    """Whether a policy may set the header `name` (lower case): authority is for credentials alone."""
    return name == name.lower() and credential_header(name) and name not in _AUTHORITY


def role_variable(name: str) -> bool:
    """Whether a role may set the environment variable `name` in its cells."""
    return _VARIABLE.fullmatch(name) is not None and _TRUST.fullmatch(name) is None and _LOADER.fullmatch(name) is None


def placeholder_variable(name: str) -> bool:
    """Whether a placeholder may stand in the variable `name`: besides, nothing that points a program at code."""
    return role_variable(name) and _CODE.fullmatch(name) is None
