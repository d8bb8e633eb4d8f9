"""The composition root: the only place that knows every part, and puts them together, one module a process.

Nobody imports it; it may import everything.
"""
