"""Rego, through regorus: the only module that knows which engine runs the policies.

What the engine needs to be safe (each was found by breaking it): input goes in as JSON text, never as a dict (a lone
surrogate in one ends the process); what it raises can be outside `Exception`; unknown functions show only on
evaluation; some builtins are absent or wrong and are given from Python. Policies are trusted code, requests are not.
A document that is undefined, or an evaluation that fails, is a failure and so a denial.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import regorus

from remit.core.decision import Opinion
from remit.core.snapshot import Policy
from remit.policy import ast

MAX_INPUT = 64 << 10
MAX_MESSAGES = 16
MAX_MESSAGE = 400
_NOTE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HEADER = re.compile(r"[a-z0-9-]{1,64}")
_UNSETTABLE = re.compile(
    r"(x-remit-|x-envoy-|x-forwarded-|content-length$|transfer-encoding$|connection$|host$|te$|upgrade$|trailer$"
    r"|authorization$|cookie$|proxy-)"
)
FORBIDDEN = ("http.", "net.lookup", "opa.runtime", "rego.parse_module", "trace")
"""Builtins (prefixes) that a policy may not call: they reach outside, or tell about the process."""


def package(module: str) -> str | None:
    """`remit.…` of the module's package statement, or None where it has none."""
    found = re.search(r"^\s*package\s+([A-Za-z_][A-Za-z0-9_.]*)\s*$", module, re.MULTILINE)
    return found[1] if found else None


def lint(name: str, module: str) -> list[str]:
    """What keeps a module from being used; empty where nothing does."""
    where = package(module)
    if where is None or not where.startswith("remit."):
        return ['expected a package that begins with "remit.", such as: package remit.example']
    try:
        engine = _engine({name: module})
        tree = ast.parse(engine.get_ast_as_json())
        engine.set_input_json("{}")
        engine.eval_query_as_json(f"data.{where}")
    except BaseException as error:
        return [_reason(error)]
    problems = [f"{call} is not available to policies" for call in sorted(tree.calls) if call.startswith(FORBIDDEN)]
    if not tree.rules & {"deny", "hold", "obligations"}:
        problems.append("expected a rule named deny, hold or obligations")
    return problems


def tree(module: str) -> ast.Tree:
    """What a module reads and calls."""
    return ast.parse(_engine({"module": module}).get_ast_as_json())


class Bundle:
    """The valid modules of a set of policies, each in an engine of its own so that none can see or break another."""

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        self._broken = {policy.name: policy.invalid for policy in policies.values() if policy.invalid}
        self._engines: dict[str, tuple[Any, str]] = {}
        for policy in policies.values():
            if policy.invalid is None:
                try:
                    self._engines[policy.name] = (_engine({policy.name: policy.module}), f"data.{policy.package}")
                except BaseException as error:
                    self._broken[policy.name] = _reason(error)

    def evaluate(self, names: Iterable[str], given: str) -> Opinion:
        """What the named policies say of `given` (JSON text). Never raises."""
        if len(given) > MAX_INPUT:
            return Opinion(failure=f"the input of the policies is over {MAX_INPUT} bytes")
        denials: list[tuple[str, str]] = []
        holds: list[tuple[str, str]] = []
        notes: dict[str, str] = {}
        headers: dict[str, str] = {}
        for name in names:
            document = self._document(name, given)
            if isinstance(document, str):
                return Opinion(failure=f"{name}: {document}")
            denials += [(name, said) for said in _messages(document.get("deny"))]
            holds += [(name, said) for said in _messages(document.get("hold"))]
            failure = _oblige(document.get("obligations", {}), notes, headers)
            if failure is not None:
                return Opinion(failure=f"{name}: {failure}")
        return Opinion(
            denials=tuple(denials[:MAX_MESSAGES]), holds=tuple(holds[:MAX_MESSAGES]), notes=notes, headers=headers
        )

    def _document(self, name: str, given: str) -> dict[str, Any] | str:
        if name not in self._engines:
            return self._broken.get(name, "the policy does not exist")
        engine, query = self._engines[name]
        try:
            engine.set_input_json(given)
            answer = json.loads(engine.eval_query_as_json(query))
            value = answer["result"][0]["expressions"][0]["value"]
        except BaseException as error:
            return f"cannot be evaluated: {_reason(error)}"
        return value if isinstance(value, dict) else "its document is undefined"


def _engine(modules: Mapping[str, str]) -> Any:
    engine = regorus.Engine()
    engine.add_extension("regex.match", 2, lambda pattern, text: re.search(pattern, text) is not None)
    engine.add_extension("glob.match", 3, _glob)
    engine.add_extension("net.cidr_contains", 2, _cidr_contains)
    for name, text in modules.items():
        engine.add_policy(f"{name}.rego", text)
    return engine


def _glob(pattern: str, delimiters: list[str] | None, text: str) -> bool:
    """OPA's glob.match: `*` stops at a delimiter (default "."), `**` does not, null delimiters are none."""
    between = "." if delimiters == [] else "".join(delimiters or [])
    one = f"[^{re.escape(between)}]*" if between else ".*"
    parts = [one if part == "*" else ".*" if part == "**" else _plain(part) for part in re.split(r"(\*\*|\*)", pattern)]
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


def _plain(part: str) -> str:
    return (
        fnmatch.translate(part).removeprefix("(?s:").removesuffix(r")\Z")
        if "[" in part or "?" in part
        else re.escape(part)
    )


def _cidr_contains(network: str, inner: str) -> bool:
    outer = ipaddress.ip_network(network, strict=False)
    held: Any = ipaddress.ip_network(inner, strict=False)
    if isinstance(held, ipaddress.IPv6Network) and held.network_address.ipv4_mapped and held.prefixlen >= 96:
        held = ipaddress.ip_network(f"{held.network_address.ipv4_mapped}/{held.prefixlen - 96}", strict=False)
    return bool(outer.version == held.version and held.subnet_of(outer))


def _messages(value: object) -> list[str]:
    """The messages of a deny or hold document. A shape that nobody meant (`deny := true`) still denies."""
    if value is None or value is False or value == [] or value == {}:
        return []
    found = []
    for item in value if isinstance(value, list) else [value]:
        said = item.get("msg", item) if isinstance(item, dict) else item
        text = said if isinstance(said, str) else json.dumps(said)
        found.append("".join(c if c.isprintable() else " " for c in text)[:MAX_MESSAGE])
    return found


def _oblige(value: object, notes: dict[str, str], headers: dict[str, str]) -> str | None:
    if not isinstance(value, dict):
        return "obligations is not an object"
    for key, items in value.items():
        if key not in ("audit", "headers") or not isinstance(items, dict):
            return f"unknown obligation {key!r}: nothing here can fulfil it"
        for name, text in items.items():
            if not isinstance(text, str) or len(text) > MAX_MESSAGE or any(not " " <= c <= "~" for c in text):
                return f"obligation {key}.{name} is not printable text"
            if key == "audit" and _NOTE.fullmatch(name):
                notes[name] = text
            elif key == "headers" and _HEADER.fullmatch(name) and not _UNSETTABLE.match(name):
                headers[name] = text
            else:
                return f"obligation {key} may not set {name!r}"
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    lines = [line for line in str(error).partition("Stack backtrace")[0].splitlines() if line.strip()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (said[0] if said else lines[0] if lines else type(error).__name__)[:MAX_MESSAGE]
