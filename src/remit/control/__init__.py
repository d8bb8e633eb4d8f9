"""What Remit does: use cases, and the ports through which they reach anything outside.

May import `core` and `policy`. Must not know: HTTP, SQL, gRPC, Envoy, namespaces, files.
"""
