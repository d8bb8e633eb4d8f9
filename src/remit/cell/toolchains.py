"""Toolchains that the operator's PATH names and that lie outside /usr: which directories a cell must see for them.

A Python of pyenv, a Node of nvm, a Rust of rustup live in somebody's home. A cell gets exactly their prefix, read-only
at its own path, never the home: next to `~/.cargo/bin` lies `~/.cargo/credentials.toml`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM = tuple(Path(p) for p in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"))
MAX_ENTRIES = 64
_PROGRAMS = ("python3", "python", "node", "go", "cargo", "java", "ruby", "deno", "bun", "uv")
_WHOLE = {".pyenv": "PYENV_ROOT", ".rbenv": "RBENV_ROOT", ".nodenv": "NODENV_ROOT", ".goenv": "GOENV_ROOT"}
"""Version managers whose programs are shims: they need the manager's whole directory, and its variable."""
_NEVER = tuple(
    Path(p) for p in ("/", "/etc", "/var", "/run", "/proc", "/sys", "/dev", "/tmp", "/home", "/root", "/boot")
)


@dataclass(slots=True, kw_only=True)
class Toolchains:
    """`prefixes`: directories to bind read-only. `path`: the entries of PATH that lead into them, in order."""

    prefixes: list[Path] = field(default_factory=list)
    path: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def add(self, prefix: Path | None) -> None:
        """One more prefix, not in PATH."""
        if prefix is not None:
            self.prefixes = _outermost([*self.prefixes, prefix])


def discover(path: str, homes: Iterable[Path]) -> Toolchains:
    """What `path` (a PATH) needs. `homes`: directories that must never be bound as a whole.

    An entry that cannot be looked at (another user's home, which `su` leaves in PATH) is none."""
    refused = {*_NEVER, *homes}
    found = Toolchains()
    for text in path.split(":")[:MAX_ENTRIES]:
        entry = Path(text)
        if not text.startswith("/") or ".." in entry.parts or _system(entry) or not os.path.isdir(entry):
            continue
        prefixes = [p for p in _prefixes(entry, refused, found.variables) if p not in refused and os.path.isdir(p)]
        if prefixes:
            found.prefixes += prefixes
            if text not in found.path:
                found.path.append(text)
    for name in _PROGRAMS:
        program = shutil.which(name, path=":".join(found.path)) if found.path else None
        real = Path(program).resolve() if program else None
        if real is not None and not _system(real) and real.parent.name == "bin":
            found.prefixes += [p for p in _prefixes(real.parent, refused, found.variables) if p not in refused]
    found.prefixes = _outermost(found.prefixes)
    return found


def _system(path: Path) -> bool:
    return any(path.is_relative_to(root) for root in SYSTEM)


def _prefixes(entry: Path, refused: set[Path], variables: dict[str, str]) -> list[Path]:
    for parent in (entry, *entry.parents):
        if parent.name in _WHOLE:
            variables.setdefault(_WHOLE[parent.name], str(parent))
            return [parent]
    if entry.parent.name == ".cargo":
        rustup = entry.parent.parent / ".rustup"
        if os.path.isdir(rustup):
            variables.setdefault("RUSTUP_HOME", str(rustup))
        return [entry, rustup]
    prefix = entry.parent
    # Right under a home there are only dot directories that mix programs with their owner's settings.
    if entry.name != "bin" or prefix in refused or prefix.parent in refused - {Path("/")}:
        return [entry]
    return [prefix]


def _outermost(paths: Iterable[Path]) -> list[Path]:
    kept: list[Path] = []
    for path in sorted(set(paths), key=lambda p: len(p.parts)):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return kept


def outside(found: Toolchains, covered: Path | None) -> list[Path]:
    """The prefixes that do not lie in `covered` (the workspace, which shows them already)."""
    return [p for p in found.prefixes if covered is None or not p.is_relative_to(covered)]
