"""Programs that run inside cells. The node only reads their text (`cell.provided`); nothing of Remit is there for them
to import, so each uses the standard library alone.
"""
