"""Sandboxes on one machine: the namespace without a wire, the forwarder out of it, bubblewrap, limits, workspaces.

May be imported by `app` only (`proxy_header` is pure). Must not know: policies, secrets, Envoy, the database; it asks
the control plane over its socket who a task is, and hands bytes to the boundary's socket.
"""
