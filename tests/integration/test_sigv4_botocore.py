"""SigV4: what botocore signed with placeholder keys verifies, by botocore, with the real ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest
from aws_verifier import wrong
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from permits import asked

from remit.core import paths
from remit.core.credential import LATER, Injected, Seen
from remit.core.injections.sigv4 import SigV4Injection
from remit.core.request import Request

REAL = {"accessKeyId": "AKIAREALREALREAL0000", "secretAccessKey": "real/secret+key"}
SESSION = {**REAL, "sessionToken": "session+token/1=="}
SEEN = "AKIAPLACEHOLDER00000"
NOW = datetime.now(UTC).replace(microsecond=0)
S3 = SigV4Injection(services=frozenset({"s3"}), regions=frozenset({"eu-central-1"}))
DYNAMO = SigV4Injection(services=frozenset({"dynamodb", "sts"}), regions=frozenset({"eu-central-1"}))
BUCKET = "bucket.s3.eu-central-1.amazonaws.com"
TABLES = "dynamodb.eu-central-1.amazonaws.com"


def signed(
    method: str,
    url: str,
    *,
    service: str = "s3",
    body: bytes = b"",
    auth: type | None = None,
    region: str = "eu-central-1",
    **headers: str,
) -> Request:
    """The request that botocore makes of it, as the boundary reads it."""
    request = AWSRequest(
        method=method, url=url, data=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    kind = auth or (S3SigV4Auth if service == "s3" else SigV4Auth)
    kind(Credentials(SEEN, "placeholder-secret"), service, region).add_auth(request)
    split = urlsplit(request.prepare().url)
    target = (split.path or "/") + (f"?{split.query}" if split.query else "")
    made = asked(target, host=split.hostname or "", method=method)
    sent = {name.lower(): str(text) for name, text in request.headers.items()}
    if body:
        sent["content-length"] = str(len(body))
    return replace(made, path=paths.normal(made.path), authority=split.netloc, headers=sent)


def upstream(
    injection: SigV4Injection, request: Request, keys: dict[str, str] = REAL, *, body: bytes = b"", now: datetime = NOW
) -> str | None:
    """What AWS says of what arrives there."""
    value = json.dumps(keys).encode()
    assert injection.unfit(value) is None
    found = injection.inject(value, request, Seen(now=now, body=hashlib.sha256(body).hexdigest() if body else ""))
    assert isinstance(found, Injected), found
    headers = {n: v for n, v in request.headers.items() if n.encode() not in found.removed}
    headers |= {name.decode(): text.decode("latin-1") for name, text in found.headers} | {"host": request.authority}
    target = found.target.decode() if found.target is not None else request.target
    known = {keys["accessKeyId"]: (keys["secretAccessKey"], keys.get("sessionToken", ""))}
    return wrong(request.method, target, headers, body, known)


@pytest.mark.parametrize("keys", [REAL, SESSION])
@pytest.mark.parametrize(
    "url",
    [
        f"https://{BUCKET}/", f"https://{BUCKET}/a/b.txt", f"https://{BUCKET}/a%20b/%C3%A9~x", f"https://{BUCKET}/a//b",
        f"https://{BUCKET}/?list-type=2&prefix=a%2Fb&delimiter=%2F", f"https://{BUCKET}/k?versionId=a&acl",
        f"https://{BUCKET}:8443/k", f"https://{BUCKET}/k?b=2&a=1&a=0",
    ],
)  # fmt: skip
def test_s3_requests_verify(url: str, keys: dict[str, str]) -> None:
    assert upstream(S3, signed("GET", url), keys) is None


def test_a_body_is_covered_as_it_was_declared() -> None:
    put = signed("PUT", f"https://{BUCKET}/k", body=b"data", content_type="text/plain")
    assert put.headers["x-amz-content-sha256"] == hashlib.sha256(b"data").hexdigest()
    assert upstream(S3, put, body=b"data") is None
    assert upstream(S3, put, body=b"other") == "XAmzContentSHA256Mismatch"
    for declared in ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"):
        unsigned = replace(put, headers={**put.headers, "x-amz-content-sha256": declared})
        assert upstream(S3, unsigned, body=b"anything") is None


def test_a_service_that_declares_no_body_needs_it_seen() -> None:
    body = b'{"TableName": "t"}'
    put = signed("POST", f"https://{TABLES}/", service="dynamodb", body=body, x_amz_target="DynamoDB_20120810.GetItem")
    assert "x-amz-content-sha256" not in put.headers
    assert DYNAMO.inject(json.dumps(REAL).encode(), put, Seen(now=NOW)) is LATER
    assert upstream(DYNAMO, put, body=body) is None
    get = signed("GET", f"https://{TABLES}/a%20b/c?Action=x&Version=1", service="sts")
    assert isinstance(DYNAMO.inject(json.dumps(REAL).encode(), get, Seen(now=NOW)), Injected)
    assert upstream(DYNAMO, get) is None


@pytest.mark.parametrize("keys", [REAL, SESSION])
def test_a_presigned_url_becomes_a_signed_request(keys: dict[str, str]) -> None:
    url = f"https://{BUCKET}/a%20b?versionId=1"
    assert upstream(S3, signed("GET", url, auth=S3SigV4QueryAuth), keys) is None
    url = f"https://{TABLES}/?Action=GetCallerIdentity"
    assert upstream(DYNAMO, signed("GET", url, service="sts", auth=SigV4QueryAuth), keys) is None


def test_a_presigned_url_with_a_port_is_signed_for_the_host_as_it_is_written() -> None:
    assert upstream(S3, signed("GET", f"https://{BUCKET}:443/k", auth=S3SigV4QueryAuth)) is None


def test_the_agents_session_token_does_not_stay() -> None:
    get = signed("GET", f"https://{BUCKET}/k", x_amz_security_token="agents")
    assert upstream(S3, get, REAL) is None
    assert upstream(S3, get, SESSION) is None
