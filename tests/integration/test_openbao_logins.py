"""JWT and Kubernetes logins against a real OpenBao; the cluster's TokenReview API is played by a server of the test."""

import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from bao import Bao
from boundary_upstreams import TestAuthority
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from remit.broker.openbao import config, store
from remit.broker.openbao.client import Client, Refused
from remit.broker.openbao.sessions import Session
from remit.core.errors import Unavailable
from remit.core.source import Kv

pytestmark = pytest.mark.xdist_group("openbao")

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = (
    KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
)
SOURCE = Kv(mount="secret", path="apps/github", key="token")


@pytest.fixture(scope="module")
def bao() -> Iterator[Bao]:
    server = Bao()
    try:
        server.put("apps/github", token="v1")
        yield server
    finally:
        server.stop()


def token(key: ec.EllipticCurvePrivateKey = KEY, **claims: object) -> str:
    now = int(time.time())
    return jwt.encode({"iat": now, "nbf": now, "exp": now + 300, **claims}, key, algorithm="ES256")


async def read(bao: Bao, directory: Path, method: str, said: str) -> bytes:
    """What a node reads that logs in with this token."""
    file = directory / "token"
    file.write_text(said + "\n")
    file.chmod(0o600)
    found = config.read(bao.file(directory, f'method = "{method}"\nrole = "node"\njwt_file = "{file}"'))
    client = Client(found)
    try:
        return store.stored(SOURCE, await Session(client, found, time.monotonic).ask(store.read(SOURCE))).value
    finally:
        await client.close()


@pytest.fixture(scope="module")
def jwt_auth(bao: Bao) -> Bao:
    bao.root("POST", "sys/auth/jwt", {"type": "jwt"})
    bao.root("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [PUBLIC], "bound_issuer": "https://ci.example"})
    role = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["remit"], "token_policies": ["node"]}
    bao.root("POST", "auth/jwt/role/node", role)
    return bao


async def test_a_jwt_of_the_right_issuer_logs_in(jwt_auth: Bao, tmp_path: Path) -> None:
    good = token(iss="https://ci.example", aud="remit", sub="node-1")
    assert await read(jwt_auth, tmp_path, "jwt", good) == b"v1"


@pytest.mark.parametrize("claims", [{"aud": "other"}, {"iss": "https://evil.example"}, {"exp": 1}])
async def test_another_jwt_does_not_and_is_not_repeated(
    jwt_auth: Bao, tmp_path: Path, claims: dict[str, object]
) -> None:
    bad = token(**{"iss": "https://ci.example", "aud": "remit", "sub": "node-1", **claims})
    with pytest.raises(Refused) as refused:
        await read(jwt_auth, tmp_path, "jwt", bad)
    assert "auth/jwt/login" in refused.value.detail
    assert bad not in refused.value.detail


async def test_a_token_file_that_others_can_read_is_not_used(jwt_auth: Bao, tmp_path: Path) -> None:
    file = tmp_path / "open"
    file.write_text(token(sub="x"))
    file.chmod(0o644)
    found = config.read(jwt_auth.file(tmp_path, f'method = "jwt"\nrole = "node"\njwt_file = "{file}"'))
    client = Client(found)
    with pytest.raises(Unavailable, match="can be read by others"):
        await Session(client, found, time.monotonic).ask(store.read(SOURCE))
    await client.close()


class Reviews(http.server.BaseHTTPRequestHandler):
    """Knows exactly one service account's token."""

    known = ""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        good = asked["spec"]["token"] == Reviews.known
        user = {"username": "system:serviceaccount:remit:node", "uid": "u-1", "groups": ["system:serviceaccounts"]}
        body = json.dumps({**asked, "status": {"authenticated": good, **({"user": user} if good else {})}}).encode()
        self.send_response(201)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def kubernetes(bao: Bao, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    authority = TestAuthority(tmp_path_factory.mktemp("k8s"), "Cluster CA")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Reviews)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.pair("127.0.0.1"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    bao.root("POST", "sys/auth/kubernetes", {"type": "kubernetes"})
    settings = {
        "kubernetes_host": f"https://127.0.0.1:{server.server_port}",
        "kubernetes_ca_cert": authority.file.read_text(),
        "token_reviewer_jwt": service_account(),
        "disable_local_ca_jwt": True,
    }
    bao.root("POST", "auth/kubernetes/config", settings)
    role = {
        "bound_service_account_names": ["node"],
        "bound_service_account_namespaces": ["remit"],
        "token_policies": ["node"],
    }
    bao.root("POST", "auth/kubernetes/role/node", role)
    try:
        yield bao
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def service_account() -> str:
    inside = {"namespace": "remit", "serviceaccount": {"name": "node", "uid": "u-1"}}
    return token(
        iss="https://kubernetes.default.svc", sub="system:serviceaccount:remit:node", **{"kubernetes.io": inside}
    )


async def test_a_service_account_logs_in(kubernetes: Bao, tmp_path: Path) -> None:
    Reviews.known = service_account()
    assert await read(kubernetes, tmp_path, "kubernetes", Reviews.known) == b"v1"


async def test_one_that_the_cluster_does_not_know_does_not(kubernetes: Bao, tmp_path: Path) -> None:
    Reviews.known = "another"
    with pytest.raises(Refused) as refused:
        await read(kubernetes, tmp_path, "kubernetes", service_account())
    assert "auth/kubernetes/login" in refused.value.detail
