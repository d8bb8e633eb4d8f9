"""Secrets: the sealed store, and the one place where a secret is opened for a permit.

May import `core` and `control`. Must not know: manifests, HTTP, who asked for what.
"""
