import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remit.boundary import check, envoy, header_names, resources
from remit.boundary.tunnels import TCP_PATH, TLS_PATH
from remit.core.errors import Unavailable

LAYOUT = resources.Layout(
    proxy_socket="/run/r/p.sock",
    check_socket="/run/r/c.sock",
    scrub_socket="/run/r/x.sock",
    hold_socket="/run/r/h.sock",
    sds_socket="/run/r/s.sock",
    tunnel_socket="/run/r/t.sock",
    tcp_socket="/run/r/tcp.sock",
    tls_socket="/run/r/tls.sock",
    refuse_socket="/run/r/r.sock",
    delegate_socket="/run/l/l.sock",
    admin_socket="/run/r/a.sock",
    spool="/var/r/spool",
    upstream_ca_file="/var/r/upstreams.pem",
)
PEM = Path("/etc/ssl/certs/ca-certificates.crt")


def values(node: Any, key: str) -> list[Any]:
    """Every value under `key` anywhere in the configuration."""
    if isinstance(node, dict):
        return [value for name, value in node.items() if name == key] + [
            found for value in node.values() for found in values(value, key)
        ]
    return [found for item in node for found in values(item, key)] if isinstance(node, list) else []


def test_envoy_itself_accepts_it(tmp_path: Path) -> None:
    envoy.write_upstream_cas(tmp_path / "cas.pem", [PEM])
    layout = replace(LAYOUT, upstream_ca_file=str(tmp_path / "cas.pem"), spool=str(tmp_path / "spool"))
    envoy.write_bootstrap(tmp_path / "envoy.json", layout)
    argv = [*envoy.argv(tmp_path / "envoy.json", concurrency=1), "--mode", "validate"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "eprecated" not in done.stderr + done.stdout


def test_it_is_a_pure_function_of_its_layout() -> None:
    assert json.dumps(resources.bootstrap(LAYOUT)) == json.dumps(resources.bootstrap(replace(LAYOUT)))


def test_nothing_listens_on_a_network() -> None:
    found = resources.bootstrap(LAYOUT)
    listening = [listener.get("address") for listener in found["static_resources"]["listeners"]]
    listening += values(found, "admin")
    assert "socket_address" not in json.dumps(listening)
    assert values(found, "internal_listener") == [{}]


def test_the_admin_interface_is_private_or_absent() -> None:
    assert resources.bootstrap(LAYOUT)["admin"]["address"]["pipe"]["mode"] == 0o660
    assert "admin" not in resources.bootstrap(replace(LAYOUT, admin_socket=None))


def test_nothing_ever_fails_open() -> None:
    found = resources.bootstrap(LAYOUT)
    checks = values(found, "failure_mode_allow")
    assert checks and not any(checks)
    assert values(found, "continue_on_listener_filters_timeout") == [False] * 3
    assert values(found, "allow_requests_without_proxy_protocol") == [False] * 3, "at each of the three doors"


def test_every_http_chain_asks_before_it_pins_and_pins_before_it_dials() -> None:
    chains = values(resources.bootstrap(LAYOUT), "http_filters")
    assert len(chains) == 3
    tunnel = [filter_["typed_config"]["@type"].rpartition(".")[2] for filter_ in chains.pop()]
    assert tunnel == ["ExtAuthz", "Config", "FilterConfig", "Router"], "nothing is dialled before the decision"
    for chain in chains:
        types = [filter_["typed_config"]["@type"].rpartition(".")[2] for filter_ in chain]
        assert types[0] == "HeaderMutation"  # what an agent may not say is gone before anything is asked
        order = [types.index(name) for name in ("ExtAuthz", "Lua", "Config", "FilterConfig", "Router")]
        assert order == sorted(order)
        assert "HeaderMutation" in types[order[0] : order[-1]]  # and what the answer brought, before it is dialled


def test_no_identity_value_can_be_omitted() -> None:
    for added in values(resources.bootstrap(LAYOUT), "headers_to_add"):
        said = {h["key"]: h["value"] for h in (item.get("header", item) for item in added)}
        assert said.keys() >= {name.decode() for name in check.IDENTITY}
        assert all(said[name.decode()].startswith("v=") for name in check.IDENTITY)


def test_a_connection_that_is_carried_unread_reaches_nothing_but_the_decision() -> None:
    found = values(resources.bootstrap(LAYOUT), "tunneling_config")
    assert [entrance["post_path"] for entrance in found] == [TCP_PATH, TCP_PATH, TCP_PATH, TLS_PATH]
    assert {entrance["use_post"] for entrance in found} == {True}
    text = json.dumps(resources.bootstrap(LAYOUT))
    assert text.count('"filters.network.tcp_proxy') == 0 and text.count("v3.TcpProxy") == len(found)


def test_no_query_and_no_header_value_is_logged() -> None:
    for line in values(resources.bootstrap(LAYOUT), "access_log"):
        text = json.dumps(line)
        assert "%REQ(:PATH)%" not in text and "AUTHORIZATION" not in text.upper().replace(":AUTHORITY", "")


def test_upstreams_must_prove_the_name_and_keep_no_session() -> None:
    found = resources.bootstrap(LAYOUT)["static_resources"]["clusters"]
    tls = [cluster for cluster in found if "UpstreamTlsContext" in json.dumps(cluster)]
    assert {cluster["name"] for cluster in tls} == {"tls", "tls_http1"}
    for cluster in tls:
        assert values(cluster, "auto_san_validation") == [True] and values(cluster, "auto_sni") == [True]
        assert values(cluster, "max_session_keys") == [0]
        assert values(cluster, "trusted_ca") == [{"filename": LAYOUT.upstream_ca_file}]


def test_the_list_of_names_that_are_never_set_is_in_force() -> None:
    assert {found["regex"] for found in values(resources.bootstrap(LAYOUT), "disallow_expression")} == {
        header_names.disallowed()
    }


def test_the_real_binary_is_started_without_hot_restart() -> None:
    argv = envoy.argv(Path("/b.json"), concurrency=2)
    assert Path(argv[0]).read_bytes()[:4] == b"\x7fELF"
    assert "--disable-hot-restart" in argv and argv[argv.index("--concurrency") + 1] == "2"


def test_upstream_bundles_are_joined_without_repeats(tmp_path: Path) -> None:
    one = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    two = b"-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n"
    (tmp_path / "1").write_bytes(b"# comment\n" + one + two)
    (tmp_path / "2").write_bytes(two + b"-----BEGIN CERTIFICATE-----\ncut")
    envoy.write_upstream_cas(tmp_path / "all", [tmp_path / "1", tmp_path / "2", tmp_path / "absent"])
    assert (tmp_path / "all").read_bytes() == one + two
    with pytest.raises(Unavailable):
        envoy.write_upstream_cas(tmp_path / "none", [tmp_path / "absent"])
