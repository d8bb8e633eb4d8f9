"""What the agents of whole-system tests may do, and the secret they must never see."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from instance import Instance
from upstreams import NAMES, Upstreams

SECRET = "real-secret-9c41e7"
PLACEHOLDER = "ph_0000000000000000"


def injected(upstreams: Upstreams, path: str, printed: str) -> None:
    """The upstream at `path` was shown the credential; its answer, which says so, came with the placeholder instead,
    in as many bytes."""
    assert upstreams.reached(path)[-1]["headers"]["authorization"] == f"Bearer {SECRET}"
    assert json.loads(printed)["headers"]["authorization"] == f"Bearer {PLACEHOLDER[: len(SECRET)]}"


MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: agent}}
spec:
  capabilities: [api, api-plain, code, rpc, sockets, stream, basic, query]
  policies: [careful]
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: nothing}}
spec: {{}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: api}}
spec:
  hosts: [api.up.example]
  ports: [{https}]
  methods: [GET, POST]
  paths: [/v1/**]
  credential: key
  addresses: [127.0.0.0/8]
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: basic}}
spec: {{hosts: [api.up.example], ports: [{https}], paths: [/basic/**], credential: basic-key, addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: query}}
spec: {{hosts: [api.up.example], ports: [{https}], paths: [/query/**], credential: query-key, addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: stream}}
spec: {{hosts: [api.up.example], ports: [{https}], paths: [/stream], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: api-plain}}
spec: {{protocol: http, hosts: [api.up.example], ports: [{http}], paths: [/v1/**], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: code}}
spec: {{hosts: [git.up.example], ports: [{https}], paths: [/tool.git/**], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: rpc}}
spec: {{hosts: [grpc.up.example], ports: [{grpc}], methods: [POST], paths: [/test.Echo/**], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: sockets}}
spec: {{hosts: [ws.up.example], ports: [{ws}], paths: [/chat], websocket: true, addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: key}}
spec:
  hosts: [api.up.example]
  inject: {{header: {{name: Authorization, format: "Bearer {{secret}}"}}}}
  placeholder: {{env: API_KEY, value: {placeholder}}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: basic-key}}
spec: {{source: {{sealed: {{name: key}}}}, hosts: [api.up.example], inject: {{basic: {{username: robot}}}}}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: query-key}}
spec: {{source: {{sealed: {{name: key}}}}, hosts: [api.up.example], inject: {{query: {{parameter: key}}}}}}
---
apiVersion: remit.dev/v1alpha1
kind: Policy
metadata: {{name: careful}}
spec:
  rego: |
    package remit.careful
    import rego.v1
    deny contains {{"msg": "frozen things stay"}} if startswith(input.request.path, "/v1/frozen")
    obligations := {{"audit": {{"change": "C-1"}}}} if input.request.path == "/v1/noted"
"""


def manifests(upstreams: Upstreams) -> str:
    return MANIFESTS.format(
        https=upstreams.https_port, http=upstreams.http_port, grpc=upstreams.grpc_port, ws=upstreams.ws_port,
        placeholder=PLACEHOLDER,
    )  # fmt: skip


@contextlib.contextmanager
def governed(upstreams: Upstreams, **environment: str) -> Iterator[Instance]:
    """A whole instance with these manifests and this secret."""
    instance = Instance(hosts=dict.fromkeys(NAMES, "127.0.0.1"), ca=upstreams.ca)
    instance.environment.update(environment)
    try:
        instance.up()
        instance.apply(manifests(upstreams))
        instance.secret("key", SECRET)
        yield instance
    finally:
        instance.down()
