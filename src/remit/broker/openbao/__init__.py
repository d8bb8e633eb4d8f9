"""OpenBao or Vault as a source of secrets: connection, logins, KV v2, leases of tasks.

May import `broker`, `control` and `core`. Must not know: manifests, cells, HTTP requests of agents.
"""
