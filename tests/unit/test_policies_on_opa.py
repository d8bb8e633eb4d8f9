"""Every pack, and the examples, on both engines: the tables of policies/ hold on the real OPA as well."""

import json
from pathlib import Path
from typing import Any

import pytest

from remit.cli import manifests
from remit.core.decision import Opinion
from remit.core.snapshot import Rules
from remit.policy import cases, trial, verdict
from remit.policy import compile as compiler

opa_bindings = pytest.importorskip("opa_bindings", reason="scripts/setup.sh dev installs it where there is a wheel")

ROOT = Path(__file__).parents[2]
PACKS = sorted(path.parent for path in (ROOT / "policies").glob("*/tests"))


class Opa:
    """`trial.Asks` with OPA's own engine, one for each policy, as regorus has it."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._engines: dict[str, Any] = {}
        for policy in rules.policies.values():
            engine = self._engines[policy.name] = opa_bindings.OpaEngine()
            engine.add_policy(f"{policy.name}.rego", policy.module)

    def __call__(self, names: tuple[str, ...], document: str, now_ns: int) -> Opinion:
        said = verdict.Verdict()
        for name in names:
            query = (
                f"x = data.{self._rules.policies[name].package} with input as {document} with time.now_ns as {now_ns}"
            )
            try:
                rows = self._engines[name].eval_query(query)
            except opa_bindings.OpaError as error:
                return Opinion(failure=f"{name}: {error}")
            if not rows:
                return Opinion(failure=f"{name}: undefined")
            failure = said.hear(name, rows[0]["x"])
            if failure is not None:
                return Opinion(failure=f"{name}: {failure}")
        return said.opinion()


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.name)
def test_a_pack_is_decided_alike_by_both_engines(pack: Path) -> None:
    rules = compiler.rules(manifests.read([str(pack)]))
    tables = [
        case for path in sorted((pack / "tests").glob("*.yaml")) for case in cases.parse(path.read_text(), path.name)
    ]
    ours, theirs, opinions = trial.Regorus(rules), Opa(rules), []

    def both(names: tuple[str, ...], document: str, now_ns: int) -> Opinion:
        first, second = ours(names, document, now_ns), theirs(names, document, now_ns)
        assert first == second, json.loads(document)
        opinions.append(first)
        return first

    outcomes = list(trial.run(rules, tables, both))
    assert [one.wrong for one in outcomes if one.wrong] == []
    assert any(one.denials for one in opinions)
    assert any(not one.denials for one in opinions)
