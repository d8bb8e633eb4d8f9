"""`remit` as it is inside of cells: a small program of our own in a directory of the cell's read-only /etc.

A cell need not have Python; the interpreter that runs this process is bound into each, read-only, where it lies outside
the system. The program finds it by its full path, whatever the agent does to PATH or to Python's variables.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from remit.cell import inside, toolchains

DIRECTORY = "/etc/remit/bin"
"""First in the PATH of every cell: the `remit` of the host could reach nothing from there."""
_PROGRAM = "remit-delegate.py"


def files() -> dict[str, str]:
    """Text by path below /etc; those in `DIRECTORY` can be run."""
    source = Path(inside.__file__).with_name("remit_delegate.py").read_text()
    program = f"{DIRECTORY}/{_PROGRAM}"
    start = f'#!/bin/sh\nexec {shlex.quote(str(_interpreter()))} -I -S {program} "$@"\n'
    return {f"{DIRECTORY}/remit".removeprefix("/etc/"): start, program.removeprefix("/etc/"): source}


def prefix() -> Path | None:
    """What must be bound for the interpreter to run; None where the system has it."""
    found = _interpreter().parent.parent
    return None if any(found.is_relative_to(root) for root in toolchains.SYSTEM) else found


def _interpreter() -> Path:
    """Not that of a virtual environment: the one behind it."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
