"""One node: the supervisor, the receiver of snapshots, DNS control, the resolver, the policy worker.

May import `core`, `policy` and `control`. Must not know: Envoy's configuration, the store, the sandbox.
"""
