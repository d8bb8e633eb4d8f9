"""The command line: a client of the API and of `cells`, one module per noun.

May import `settings`, `policy` (to read manifests with their line numbers) and `core`; must not know any other adapter.
`run.py` (the fast path of `run`, `exec`, `attach`) imports only the standard library.
"""
