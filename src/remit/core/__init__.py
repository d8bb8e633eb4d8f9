"""What is true: pure values and rules.

Lives here: names, addresses, paths, capabilities, decisions, tasks, claims, secrets. Anyone may import it.
Must not know: sockets, files, clocks, randomness, environment, or any other package of Remit.
"""
