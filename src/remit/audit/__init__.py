"""The log: append, chain, verify, search. Its own files and its own schema.

May import `core` and `control`. Must not know: the store, the boundary, who asks.
"""
