"""Remit: full capability inside a sandbox, a governed boundary outside it."""

__version__ = "0.1.0"
