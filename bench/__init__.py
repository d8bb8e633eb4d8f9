"""What Remit costs: figures of its parts, and of the whole against no governance and against mitmproxy.

Run with `python -m bench`; nothing imports it. It knows the product from outside (`remit`, its sockets, `/proc`), and
its parts as a caller would; see README.md for what is compared with what.
"""
