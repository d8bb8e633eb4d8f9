"""The control plane's edge: HTTP API (one module per resource), the link to the node, the client of `cells`.

Only `remit.app` imports it. Must not know: SQL, Envoy, manifests' inner rules. What it needs comes as `Services`.
"""
