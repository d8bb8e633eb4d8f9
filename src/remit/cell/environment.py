"""The environment of an agent: a clean one, with the trust store named under every name that clients look for.

There is no one variable for "trust this CA": each language and tool reads its own. They all name the bundle (our CA
and the system's); Node's adds to its built-in roots, so it names our CA alone. Nothing of the operator's environment
comes in unless it was passed explicitly, since it holds tokens more often than not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from remit.cell import provided, sandbox
from remit.core.errors import Invalid

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
CERTIFICATE = "/etc/remit/ca.pem"
JAVA_STORE = "/etc/remit/trust.jks"
JAVA_PASSWORD = "changeit"  # noqa: S105 - the password of every JDK's own store; it protects nothing
"""Not a secret: Java wants one for a file of certificates."""
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
MAX_VARIABLES, MAX_BYTES = 512, 128 << 10
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_BUNDLE_NAMES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "NIX_SSL_CERT_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CODEX_CA_CERTIFICATE",
    "HTTPLIB2_CA_CERTS",
)


def sayable(text: str) -> bool:
    """Whether it can be handed to a program: JSON can spell half a character, for which no bytes stand."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def checked(variables: Mapping[object, object], whose: str) -> dict[str, str]:
    """`variables` if they can stand in an environment. Raises `Invalid` naming the one that cannot."""
    if len(variables) > MAX_VARIABLES:
        raise Invalid(f"{whose}: {len(variables)} variables, at most {MAX_VARIABLES}")
    kept: dict[str, str] = {}
    for name, value in variables.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Invalid(f"{whose}: {str(name)[:80]!r} is no name of a variable", hint="--env NAME=VALUE")
        if not isinstance(value, str) or not sayable(value) or len(value) > MAX_BYTES:
            raise Invalid(f"{whose}: the value of {name} is not a text without NUL of at most {MAX_BYTES} bytes")
        kept[name] = value
    if sum(len(name) + len(value) for name, value in kept.items()) > MAX_BYTES:
        raise Invalid(f"{whose}: the variables take more than {MAX_BYTES} bytes")
    return kept


def build(
    *, tools: Mapping[str, str], path: tuple[str, ...], terminal: str, role: Mapping[str, str], given: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment. `tools`: variables of the toolchains; `role`: with placeholders; `given` wins."""
    base = {
        "HOME": sandbox.HOME,
        "USER": sandbox.USER,
        "LOGNAME": sandbox.USER,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": terminal or "dumb",
        "PATH": ":".join((provided.DIRECTORY, *path, *SYSTEM_PATH)),
        "TMPDIR": "/tmp",
        "SSL_CERT_DIR": "/etc/ssl/certs",
        "NODE_EXTRA_CA_CERTS": CERTIFICATE,
        "JAVA_TOOL_OPTIONS": f"-Djavax.net.ssl.trustStore={JAVA_STORE} "
        f"-Djavax.net.ssl.trustStorePassword={JAVA_PASSWORD} -Djavax.net.ssl.trustStoreType=JKS",
    }
    return base | dict.fromkeys(_BUNDLE_NAMES, BUNDLE) | dict(tools) | dict(role) | dict(given)
