"""SigV4: the published vectors, and what is odd about a signature is refused with its reason."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from permits import asked

from remit.core import paths
from remit.core.credential import Injected, Seen
from remit.core.injections.sigv4 import EMPTY, SigV4Injection
from remit.core.reason import Reason, Refusal
from remit.core.request import Request

REAL = {"accessKeyId": "AKIAREALREALREAL0000", "secretAccessKey": "real/secret+key"}
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
S3 = SigV4Injection(services=frozenset({"s3"}), regions=frozenset({"eu-central-1"}))
HOST = "bucket.s3.eu-central-1.amazonaws.com"
SCOPE = "AKIAPLACEHOLDER00000/20261124/eu-central-1/s3/aws4_request"
AUTH = f"AWS4-HMAC-SHA256 Credential={SCOPE}, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={'0' * 64}"
GET = replace(
    asked("/k", host=HOST),
    authority=HOST,
    headers={"authorization": AUTH, "x-amz-date": "20261124T120000Z", "x-amz-content-sha256": EMPTY},
)
LINK = replace(
    asked(
        f"/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={quote(SCOPE, safe='')}&X-Amz-Date=20261124T120000Z"
        f"&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature={'0' * 64}",
        host=HOST,
    ),
    authority=HOST,
)


def test_the_nodes_time_is_what_is_signed() -> None:
    found = S3.inject(json.dumps(REAL).encode(), GET, Seen(now=NOW + timedelta(minutes=10)))
    assert isinstance(found, Injected)
    assert dict(found.headers)[b"x-amz-date"].decode() == (NOW + timedelta(minutes=10)).strftime("%Y%m%dT%H%M%SZ")


def changed(request: Request, **headers: str | None) -> Request:
    sent = {**request.headers, **{k.replace("_", "-"): v for k, v in headers.items() if v is not None}}
    return replace(request, headers={k: v for k, v in sent.items() if headers.get(k.replace("-", "_"), v) is not None})


def query(request: Request, old: str, new: str) -> Request:
    assert old in request.query
    text = request.query.replace(old, new)
    return replace(request, query=text, target=f"{request.path}?{text}")


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (changed(GET, authorization=None), "it is not signed"),
        (changed(GET, authorization="Bearer x"), "no AWS4-HMAC-SHA256 signature"),
        (changed(GET, authorization=AUTH + AUTH), "no AWS4-HMAC-SHA256 signature"),
        (changed(GET, authorization=AUTH + ",x"), "no AWS4-HMAC-SHA256 signature"),
        (changed(GET, authorization=AUTH.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256")), "SigV4A"),
        (changed(GET, authorization=AUTH.replace("host;", "")), "its host is not signed"),
        (
            changed(GET, authorization=AUTH.replace("host;x-amz-content-sha256", "x-amz-content-sha256;host")),
            "not in order",
        ),
        (changed(GET, authorization=AUTH.replace("host;", "host;host;")), "not in order"),
        (changed(GET, x_amz_acl="public-read"), "header x-amz-acl is not signed"),
        (
            changed(GET, authorization=AUTH.replace("host;", "host;range;")),
            "not in order|signs header range, which is not there",
        ),
        (changed(GET, authorization=AUTH.replace("/s3/", "/iam/")), "for service iam; the credential is for s3"),
        (changed(GET, authorization=AUTH.replace("eu-central-1", "us-east-1")), "for region us-east-1"),
        (changed(GET, authorization=AUTH.replace("/s3/", "/s3\r\nx: /")), "no AWS4-HMAC-SHA256 signature"),
        (changed(GET, x_amz_date="20200101T000000Z"), "of different days"),
        (changed(GET, x_amz_date="yesterday"), "it has no x-amz-date"),
        (changed(GET, x_amz_date=None), "signs header x-amz-date, which is not there"),
        (changed(GET, x_amz_content_sha256="STREAMING-AWS4-HMAC-SHA256-PAYLOAD"), "payload_signing_enabled"),
        (changed(GET, x_amz_content_sha256="STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"), "signed in chunks"),
        (changed(GET, x_amz_content_sha256="x\ny"), "no digest of a body"),
        (replace(GET, query="a=b+c"), "plus sign"),
        (changed(LINK, authorization=AUTH), "signed twice"),
        (query(LINK, "X-Amz-Date=", "X-Amz-Date=20200101T000000Z&X-Amz-Date="), "there twice"),
        (query(LINK, "AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), "no AWS4-HMAC-SHA256 signature"),
        (query(LINK, "X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=x"), "its host is not signed"),
        (query(LINK, "X-Amz-Expires=3600", "X-Amz-Expires=99999999"), "no AWS4-HMAC-SHA256 signature"),
        (query(LINK, "%2Fs3%2F", "%2Fiam%2F"), "for service iam"),
    ],
)
def test_what_is_odd_is_refused_with_its_reason(request_: Request, why: str) -> None:
    found = S3.inject(json.dumps(REAL).encode(), request_, Seen(now=NOW, body=""))
    assert isinstance(found, Refusal)
    assert found.reason is Reason.SIGNATURE_REFUSED
    assert any(one in found.detail for one in why.split("|"))
    assert "\n" not in found.detail


@pytest.mark.parametrize(
    ("minutes", "good"), [(0, True), (14, True), (-14, True), (16, False), (-16, False), (60 * 24 * 365, False)]
)
def test_a_time_that_is_far_from_the_nodes_is_refused(minutes: int, good: bool) -> None:
    found = S3.inject(json.dumps(REAL).encode(), GET, Seen(now=NOW + timedelta(minutes=minutes)))
    assert isinstance(found, Injected) is good
    later = S3.inject(json.dumps(REAL).encode(), LINK, Seen(now=NOW + timedelta(minutes=minutes)))
    assert isinstance(later, Injected) is (-15 < minutes < 60)  # a presigned one says how long it is good


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\%;"), min_size=1, max_size=12))
def test_what_was_decided_is_what_is_signed_whatever_the_spelling(key: str) -> None:
    if key.strip(" ") in (".", ".."):
        return
    plain = f"/{quote(key, safe='')}"
    every = "/" + "".join(f"%{byte:02x}" for byte in key.encode())
    values = []
    for path in (plain, every):
        request = replace(GET, target=path, path=paths.normal(path))
        found = S3.inject(json.dumps(REAL).encode(), request, Seen(now=NOW))
        assert isinstance(found, Injected)
        values.append(dict(found.headers)[b"authorization"])
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("method", "path", "query", "service", "signature"),
    [  # the published test suite (get-vanilla, get-vanilla-query-order-key-case, post-vanilla)
        ("GET", "/", "", "service", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        (
            "GET",
            "/",
            "Param2=value2&Param1=value1",
            "service",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        ("POST", "/", "", "service", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ],
)
def test_the_published_vectors(method: str, path: str, query: str, service: str, signature: str) -> None:
    keys = {"accessKeyId": "AKIDEXAMPLE", "secretAccessKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
    header = (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE000000000/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    )
    target = f"{path}?{query}" if query else path
    request = replace(
        asked(target, host="example.amazonaws.com", method=method),
        authority="example.amazonaws.com", headers={"authorization": header, "x-amz-date": "20150830T123600Z"},
    )  # fmt: skip
    injection = SigV4Injection(services=frozenset({service}), regions=frozenset({"us-east-1"}))
    now = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
    found = injection.inject(json.dumps(keys).encode(), request, Seen(now=now, body=""))
    assert isinstance(found, Injected)
    assert dict(found.headers)[b"authorization"].decode().rpartition("Signature=")[2] == signature


@pytest.mark.parametrize(
    "value",
    [
        b"", b"plain", b'{"accessKeyId": "A"}', b'{"accessKeyId": "A\\r\\n", "secretAccessKey": "b"}',
        b'{"accessKeyId": "A", "secretAccessKey": "b c"}', b'{"accessKeyId": "A", "secretAccessKey": "b", "sessionToken": "c\\n"}',
    ],
)  # fmt: skip
def test_what_is_no_pair_of_keys_is_unfit(value: bytes) -> None:
    assert S3.unfit(value) is not None


@pytest.mark.parametrize(
    "value",
    [
        {"AccessKeyId": "A", "SecretAccessKey": "b", "SessionToken": "c"},
        {"access_key": "A", "secret_key": "b", "security_token": "c"},
        {"aws_access_key_id": "A", "aws_secret_access_key": "b", "aws_session_token": "c"},
    ],
)
def test_keys_as_others_call_them(value: dict[str, str]) -> None:
    assert S3.unfit(json.dumps(value).encode()) is None
    assert [secret for secret, _ in S3.secrets(json.dumps(value).encode(), b"x")] == [b"A", b"b", b"c"]
