"""A capability names a host, and the host names the node, the cloud's metadata or a neighbour: nobody is dialled."""

from __future__ import annotations

import json
from itertools import cycle

import pytest
from attacked import ADDRESSES, ANYWHERE, Attacker, Whole, request
from instance import wait_for

pytestmark = pytest.mark.xdist_group("attacks-whole")

RESOLVES = {f"a name that is {name}": f"{name}.up.example" for name in ADDRESSES if name != "unresolved"} | {
    f"a name that is {name}, where the capability allows the range": f"any-{name}.up.example" for name in ANYWHERE
}


@pytest.mark.parametrize("sentence", RESOLVES)
def test_a_name_that_leads_to_a_special_address_is_not_dialled(whole: Whole, cell: Attacker, sentence: str) -> None:
    host, port = RESOLVES[sentence], whole.hostile.port
    record = whole.refused(lambda: cell.ask(host, port, request(host, port)), "address_refused")
    assert host in record["detail"]
    assert not record.get("upstream")


SPELLINGS = {
    "dotted": ("169.254.169.254", ("no_capability",)),
    "a private one that is governed": ("10.1.2.3", ("address_refused",)),
    "IPv6 that is governed": ("[fd00:201::2]", ("address_refused",)),
    "decimal": ("2852039166", ("name_invalid",)),
    "hexadecimal": ("0xa9fea9fe", ("name_invalid",)),
    "dotted hexadecimal": ("0xa9.0xfe.0xa9.0xfe", ("name_invalid",)),
    "octal": ("0251.0376.0251.0376", ("name_invalid",)),
    "short": ("169.254.43518", ("name_invalid",)),
    "with leading zeros": ("169.254.169.0254", ("name_invalid",)),
    "mapped": ("[::ffff:169.254.169.254]", ("no_capability", "name_invalid", "destination_mismatch")),
    "mapped in hexadecimal": ("[::ffff:a9fe:a9fe]", ("no_capability", "name_invalid", "destination_mismatch")),
    "expanded IPv6": ("[fd00:0ec2:0:0:0:0:0:254]", ("name_invalid", "refused_by_boundary")),
    "IPv6 with a zone": ("[fe80::1%25lo]", ("name_invalid", "refused_by_boundary")),
    "IPv6 without brackets": ("fd00:ec2::254", ("name_invalid", "refused_by_boundary")),
    "wide digits": ("１６９.254.169.254", ("name_invalid", "refused_by_boundary")),
}


@pytest.mark.parametrize("sentence", SPELLINGS)
def test_an_address_however_it_is_spelled_is_not_dialled(whole: Whole, cell: Attacker, sentence: str) -> None:
    host, reasons = SPELLINGS[sentence]
    to = {"10.1.2.3": "10.1.2.3", "[fd00:ec2::254]": "fd00:ec2::254", "[fd00:201::2]": "fd00:201::3"}.get(
        host, "169.254.169.254"
    )
    data = f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
    whole.refused(lambda: cell.ask(host, 80, data, to=to, tls=False), *reasons, *OTHER.get(sentence, ()))


OTHER = {"IPv6 that is governed": ("destination_mismatch",)}
"""The cell's own address stays inside, so the connection goes to a neighbour of it."""


def test_addresses_that_agents_dial_by_habit_are_refused_with_a_record(whole: Whole, cell: Attacker) -> None:
    for to in ("169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200", "192.0.2.2", "10.201.0.1"):
        bracketed = f"[{to}]" if ":" in to else to
        data = f"GET /latest/meta-data/ HTTP/1.1\r\nhost: {bracketed}\r\n\r\n".encode()
        record = whole.refused(lambda to=to, data=data: cell.ask(to, 80, data, to=to, tls=False), "no_capability")
        assert record["host"] == to


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("http://169.254.169.254/latest/", "no_capability"),
        ("http://[::ffff:169.254.169.254]/", "name_invalid"),
        ("http://2852039166/", "no_capability"),
        ("https://meta.up.example:PORT/", "address_refused"),
    ],
)
def test_a_redirect_to_a_special_address_is_refused_like_the_address(
    whole: Whole, cell: Attacker, to: str, reason: str
) -> None:
    to = to.replace("PORT", str(whole.hostile.port))
    url = f"https://api.up.example:{whole.hostile.port}/to?{to}"
    source = """
import subprocess
done = subprocess.run(["curl", "-gsSL", "-m", "15", url], capture_output=True, text=True)
result = [done.returncode, done.stdout, done.stderr]
"""
    before, known = len(whole.hostile.seen), {one["id"] for one in whole.audit(decision="deny")}
    code, out, _ = cell.do(source, url=url)
    assert code == 0 and json.loads(out)["reason"] == reason, out
    assert [seen["path"] for seen in whole.hostile.seen[before:]] == [f"/to?{to}"]
    (record,) = [one for one in whole.audit(decision="deny", kind="decision") if one["id"] not in known]
    assert record["reason"] == reason and record["id"] == json.loads(out)["record"]


def test_a_name_that_changes_between_questions_is_judged_each_time_and_dialled_where_it_was_judged(
    whole: Whole, cell: Attacker
) -> None:
    host, port = "rebind.wild.up.example", whole.hostile.port
    answers = cycle([("127.0.0.1",), ("169.254.169.254",)])
    now = [next(answers)]
    whole.names.table[host] = lambda: now[0]
    before = len(whole.hostile.seen)
    assert cell.ask(host, port, request(host, port, "/open/1"))["status"] == 200
    now[0] = next(answers)

    def rebound() -> bool:
        return cell.ask(host, port, request(host, port, "/open/2"))["status"] == 403

    wait_for(rebound, "the new address is seen")  # within the second that an answer is kept
    whole.refused(lambda: cell.ask(host, port, request(host, port, "/open/2")), "address_refused")
    seen = whole.hostile.seen[before:]
    assert {dict(one["headers"])["host"] for one in seen} == {f"{host}:{port}"}


def test_a_name_without_an_address_says_so(whole: Whole, cell: Attacker) -> None:
    host, port = "unresolved.up.example", whole.hostile.port
    whole.refused(lambda: cell.ask(host, port, request(host, port)), "name_unresolved")
    assert cell.ask(host, port, request(host, port))["status"] == 502
    whole.still_works(cell)
