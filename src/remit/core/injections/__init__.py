"""The kinds of injection: how a secret is presented to an upstream, one kind a file, each a `credential.Injection`.

May import `core`. A kind is named in two places: here as what it does, in `policy.injections` as it is written.
Nothing else may know one kind from another.
"""
