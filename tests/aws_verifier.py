"""What AWS does with a signature, by botocore's own signer: the independent half of the tests of SigV4."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(\w+)/(\d{8})/([\w-]+)/([\w-]+)/aws4_request, SignedHeaders=([\w;-]+), Signature=(\w+)"
)


def wrong(
    method: str, target: str, headers: Mapping[str, str], body: bytes, keys: Mapping[str, tuple[str, str]]
) -> str | None:
    """Why AWS would refuse the request, or None. `headers`: lower-case names; `keys`: id → secret key, session token."""
    match = _HEADER.fullmatch(headers.get("authorization", ""))
    if match is None:
        return f"no signature: {headers.get('authorization', '')[:40]}"
    key, day, region, service, signed, signature = match.groups()
    if key not in keys:
        return f"InvalidAccessKeyId: {key}"
    secret, token = keys[key]
    if headers.get("x-amz-security-token", "") != token:
        return "InvalidToken"
    names = signed.split(";")
    needed = {"host", *(name for name in headers if name.startswith("x-amz-"))}
    if not needed <= set(names):
        return f"not signed: {needed - set(names)}"
    declared = headers.get("x-amz-content-sha256", "")
    if re.fullmatch("[0-9a-f]{64}", declared) and declared != hashlib.sha256(body).hexdigest():
        return "XAmzContentSHA256Mismatch"
    if headers["x-amz-date"][:8] != day:
        return "date"
    auth = (S3SigV4Auth if service == "s3" else SigV4Auth)(Credentials(key, secret, token or None), service, region)
    request = AWSRequest(method=method, url=f"https://{headers['host']}{target}", data=body)
    for name in names:
        request.headers[name] = headers[name]
    request.context["timestamp"] = headers["x-amz-date"]
    request.context["payload_signing_enabled"] = True
    canonical = auth.canonical_request(request)
    computed = auth.signature(auth.string_to_sign(request, canonical), request)
    return None if computed == signature else f"SignatureDoesNotMatch:\n{canonical}"
