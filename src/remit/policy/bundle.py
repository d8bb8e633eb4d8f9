"""The policies in force as a bundle that an Open Policy Agent loads (its format: openpolicyagent.org, "Bundles").

The revision is a hash of what is in it, so that whoever asks OPA can tell from the answer's provenance which policies
gave it. Broken policies are left out: they refuse without being asked.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping

from remit.core.snapshot import Policy
from remit.policy import rego

MEDIA_TYPE = "application/vnd.openpolicyagent.bundles"


def flaw(policy: Policy) -> str:
    """Why a policy cannot be asked, or nothing. Parses it, evaluates nothing."""
    return policy.invalid or "; ".join(str(one) for one in rego.lint(policy.module))


def revision(policies: Mapping[str, Policy]) -> str:
    """Names the usable ones among `policies` and their text. Cheap next to `archive`, but it parses what is new."""
    parts = [[one.name, one.package, one.module] for one in _usable(policies)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def archive(policies: Mapping[str, Policy]) -> bytes:
    """The gzipped tar file: the same bytes for the same policies."""
    manifest = {"revision": revision(policies), "roots": ["remit"], "rego_version": 1}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, ".manifest", json.dumps(manifest))
        for policy in _usable(policies):
            _add(tar, f"remit/{policy.name}.rego", policy.module)
    return gzip.compress(packed.getvalue(), mtime=0)


def _usable(policies: Mapping[str, Policy]) -> Iterable[Policy]:
    return (policies[name] for name in sorted(policies) if not flaw(policies[name]))


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mode = 0o644
    tar.addfile(entry, io.BytesIO(data))
