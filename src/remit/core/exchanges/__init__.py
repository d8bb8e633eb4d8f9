"""The kinds of exchange, one a file, each a `core.exchange.Exchange`. As for injections: only `policy.injections` knows
one from another.
"""
