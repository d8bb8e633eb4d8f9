"""Auth flows: how a stored secret becomes what a request carries, one protocol a module, without I/O.

A flow is a generator that yields requests and is sent their answers (`flow.Flow`). May import `core`.
"""
