"""`remit policy test`: tables decided by the real rules, told as text, JSON lines and JUnit; mistakes with their line."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import Remit
from command_line import remit as remit

MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: read}
spec: {hosts: [api.example.com], methods: [GET], budgets: [{requests: 5, per: 1h}]}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: database}
spec: {protocol: tcp, hosts: [db.example.com], ports: [5432]}
---
apiVersion: remit.dev/v1alpha1
kind: Policy
metadata: {name: by-day}
spec:
  rego: |
    package remit.by_day
    import rego.v1
    deny contains {"msg": "not at night"} if time.clock(time.now_ns())[0] < 6
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: reader}
spec: {capabilities: [read, database], policies: [by-day]}
"""


@pytest.fixture
def pack(tmp_path: Path) -> Callable[[str], str]:
    def write(table: str) -> str:
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "all.yaml").write_text(MANIFESTS)
        (tmp_path / "tests/cases.yaml").write_text(table)
        return str(tmp_path)

    return write


GOOD = """role: reader
cases:
  reads: {request: GET https://api.example.com/x, permit: read}
  does not write: {request: POST https://api.example.com/x, deny: no_capability}
  does not read at night: {request: GET https://api.example.com/x, at: "2026-01-05T05:59:59Z", deny: policy_denied, detail: not at night}
  does not read a sixth time: {request: GET https://api.example.com/x, used: {capability/read/requests/1h: 5}, deny: budget_exhausted}
  connects: {request: "CONNECT tcp://db.example.com:5432", permit: database}
  refuses a path with two meanings: {request: GET https://api.example.com/a%2fb, deny: no_capability}
"""


def test_cases_that_are_decided_as_expected(pack: Callable[[str], str], remit: Remit) -> None:
    code, out, err = remit("policy", "test", pack(GOOD))
    assert (code, out.count("  ok  ")) == (0, 6), out + err
    assert "6 of 6" in err


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("{request: POST https://api.example.com/x, permit: read}", "expected permit read, found deny no_capability"),
        ("{request: GET https://api.example.com/x, permit: other}", "expected capability other, found read"),
        ("{request: GET https://api.example.com/x, deny: no_capability}", "found permit permitted through read"),
        ("{request: GET https://api.example.com/x, permit: read, credential: c}", "expected credential c, found none"),
        ('{request: GET https://api.example.com/x, at: "2026-01-05T01:00:00Z", deny: policy_denied, detail: zzz}', "expected a detail with 'zzz'"),
        ("{request: GET https://api.example.com/x, used: {role/x/requests: 1}, deny: budget_exhausted}", "there are: capability/read/requests/1h"),
        ("{request: GET https://else.example.com/x, used: {role/x/requests: 1}, deny: no_capability}", "no budget applies"),
        ("{request: GET ftp://api.example.com/x, permit: read}", "is not an http, https, tcp or tls URL"),
        ("{request: GET tcp://db.example.com:5432, permit: database}", "carried unread"),
        ("{request: CONNECT tcp://db.example.com, permit: database}", "names no port"),
        ("{role: nobody, request: GET https://api.example.com/x, permit: read}", "there is no role 'nobody'"),
    ],
)  # fmt: skip
def test_a_case_that_is_not(pack: Callable[[str], str], remit: Remit, tmp_path: Path, case: str, wrong: str) -> None:
    directory = pack(f"role: reader\ncases:\n  a sentence: {case}\n")
    report = tmp_path / "report.xml"
    code, out, _ = remit("policy", "test", directory, "--json", "--junit", str(report))
    told = json.loads(out)
    assert (code, told["ok"], told["line"]) == (1, False, 3)
    assert wrong in told["wrong"]
    suite = ElementTree.parse(report).getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert wrong in (suite[0][0].get("message") or "")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("cases:\n  abc: {request: GET https://x.example/, permit: read}", "cases.yaml:2: abc: expected a role"),
        ("role: reader\ncases:\n  abc: {request: GET https://x.example/}", "cases.yaml:3: cases.abc: expected exactly one of permit"),
        ("role: reader\ncases:\n  abc: {request: https://x.example/, permit: read}", "expected a method and a URL"),
        ("role: reader\ncases:\n  abc: {request: GET https://x.example/, deny: no_capabilty}", "did you mean no_capability"),
        ("role: reader\ncases:\n  abc: {request: GET https://x.example/, deny: permitted}", "expected a reason of a denial"),
        ("role: reader\ncases:\n  abc: {request: GET https://x.example/, permit: read, at: yesterday}", "expected a time such as"),
        ("role: reader\ncases:\n  abc: {request: GET https://x.example/, permit: read}\n  abc: {}", "cases.yaml:4"),
        ("role: reader\ncases: {}", "expected at least 1"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read(pack: Callable[[str], str], remit: Remit, table: str, said: str) -> None:
    code, _, err = remit("policy", "test", pack(table))
    assert code == 2
    assert said in err


def test_manifests_that_are_broken_are_not_tried(pack: Callable[[str], str], remit: Remit, tmp_path: Path) -> None:
    directory = pack(GOOD)
    (tmp_path / "all.yaml").write_text(MANIFESTS.replace("policies: [by-day]", "policies: [by-night]"))
    code, out, err = remit("policy", "test", directory)
    assert (code, out) == (2, "")
    assert "by-night" in err


def test_a_directory_without_tables(remit: Remit, tmp_path: Path) -> None:
    code, _, err = remit("policy", "test", str(tmp_path))
    assert code == 4
    assert "there is no tests/" in err
