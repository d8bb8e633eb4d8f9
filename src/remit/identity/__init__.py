"""Who is asking: the issuer's keys, the tokens it mints, and their verification on a node.

Adapters behind `control.ports.Verifier` and `control.ports_control.Issuer`; only `remit.app` imports them.
Must not know: manifests, HTTP, SQL, Envoy. A node gets public keys only.
"""
