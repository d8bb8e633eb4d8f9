"""What was written: manifests checked, compiled and explained; Rego lives here.

May import `core`. Imported by `control` and the adapters. Must not know: sockets, files, processes, clocks.
"""
