"""Where a secret could have got to, searched for every spelling of it (`core.spellings`)."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from remit.core import spellings
from remit.core.scrubber import Forms

CHUNK = 1 << 20
OVERLAP = 4096
"""Longer than any spelling of a canary, so that none is cut by the end of a chunk."""
PAGE = 4096
ZEROS = bytes(PAGE)
MOST_ZEROS = 3
"""In one place of a spelling: of an ASCII character in UTF-32."""
MAX_REGION = 256 << 20
SHOWN_PATH = 200
UNTRUSTED = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""A file of a cell may be a FIFO by now, which nobody writes to."""
_REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ \S+ *(.*)")
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
COLLECTED = (Path("/var/lib/systemd/coredump"), Path("/var/crash"), Path("/var/lib/apport/coredump"))
_VARIES = re.compile(r"(?:%.|\*)+")
_CORE = re.compile(r"^Max core file size\s+(\S+)\s+(\S+)", re.MULTILINE)


@dataclass(slots=True)
class Sink:
    """`looked`: how many things were searched. `found`: where it stands. `unread`: what could not be searched.
    `by_design`: why it may stand there, so that nobody looks."""

    looked: int = 0
    found: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    by_design: str = ""


class Search:
    """Looks for `canary`, and remembers by sink what it found."""

    def __init__(self, canary: bytes) -> None:
        self._forms = Forms(spellings.table([(canary, b"*" * len(canary))], level=False))
        self.sinks: dict[str, Sink] = {}

    def sink(self, name: str) -> Sink:
        return self.sinks.setdefault(name, Sink())

    def data(self, sink: str, where: str, data: bytes) -> None:
        found = self.sink(sink)
        found.looked += 1
        if self._found(data):
            found.found.append(where)

    def _found(self, data: bytes) -> bool:
        """Most of memory, and of files that were made large beforehand, is zeros, which the search is slow at."""
        return any(self._forms.found(part) for part in _written(data))

    def file(self, sink: str, path: Path) -> None:
        found = self.sink(sink)
        try:
            with os.fdopen(os.open(path, UNTRUSTED), "rb") as opened:
                found.looked += 1
                before = b""
                while data := opened.read(CHUNK):
                    if self._found(before + data):
                        found.found.append(str(path))
                        return
                    before = data[-OVERLAP:]
        except FileNotFoundError:
            return  # it went meanwhile
        except OSError as error:
            found.unread.append(f"{path}: {error.strerror}")

    def tree(self, sink: str, root: Path, since: float = 0.0) -> None:
        """Every regular file below `root` that was changed at `since` (seconds since 1970) or later."""
        waiting = [str(root)]  # an agent makes directories as deep as it likes
        while waiting:
            folder = waiting.pop()
            try:
                inside = list(os.scandir(folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                self.sink(sink).unread.append(f"{folder[:SHOWN_PATH]}: {error.strerror}")
                continue
            for one in inside:
                with contextlib.suppress(OSError):
                    if one.is_dir(follow_symlinks=False):
                        waiting.append(one.path)
                    elif one.is_file(follow_symlinks=False) and one.stat(follow_symlinks=False).st_mtime >= since:
                        self.file(sink, Path(one.path))

    def process(self, pid: int) -> None:
        """What others can read of a process: its arguments and environment."""
        for what, sink in (("cmdline", "process list"), ("environ", "process environments")):
            path = Path("/proc") / str(pid) / what
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                self.data(sink, f"{what} of {pid}", path.read_bytes())

    def memory(self, sink: str, pid: int, shown: str) -> None:
        """Everything that a process has in memory."""
        try:
            maps = (Path("/proc") / str(pid) / "maps").read_text()
            with (Path("/proc") / str(pid) / "mem").open("rb", buffering=0) as memory:
                for begin, end, _ in _REGION.findall(maps):
                    first, last = int(begin, 16), int(end, 16)
                    if last - first > MAX_REGION:
                        self.sink(sink).unread.append(f"{shown} {pid}: {begin}-{end}")
                        continue
                    with contextlib.suppress(OSError, ValueError, OverflowError):  # such as [vvar]
                        memory.seek(first)
                        self.data(sink, f"{shown} {pid}", memory.read(last - first))
        except OSError as error:
            self.sink(sink).unread.append(f"{shown} {pid}: {error.strerror}")

    def cores(self, pids: Mapping[str, int]) -> None:
        """Whether a process that dies would leave its memory: a limit above 1 byte (`node.privilege.without_core`)."""
        found = self.sink("core dumps")
        for name, pid in pids.items():
            try:
                limit = _CORE.search((Path("/proc") / str(pid) / "limits").read_text())
            except OSError:
                continue
            found.looked += 1
            if limit is None or limit[1] not in ("0", "1"):
                found.found.append(f"{name} may leave one")

    def core_files(self, since: float) -> None:
        """What a crash may have left since then, where the kernel or what it hands a dump to would put it (core(5))."""
        pattern = _VARIES.sub("*", CORE_PATTERN.read_text().strip() + "*")
        if pattern.startswith("/"):
            for path in Path("/").glob(pattern.lstrip("/")):
                if path.is_file() and path.stat().st_mtime >= since:
                    self.file("core dumps", path)
        for directory in COLLECTED:
            self.tree("core dumps", directory, since)


def _written(data: bytes) -> Iterator[bytes]:
    """The parts of `data` between whole pages of zeros, with so many zeros on either side as a spelling can have."""
    begin: int | None = None
    for page in range(0, len(data), PAGE):
        empty = data.startswith(ZEROS[: len(data) - page], page)
        if empty and begin is not None:
            yield data[max(0, begin - MOST_ZEROS) : page + MOST_ZEROS]
            begin = None
        elif not empty and begin is None:
            begin = page
    if begin is not None:
        yield data[max(0, begin - MOST_ZEROS) :]


def descendants(ancestor: int) -> list[int]:
    """Processes that came of `ancestor`, as they are now."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, grew = {ancestor}, True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grew = bool(more)
    return sorted(found - {ancestor})


def roots(pids: Iterable[int]) -> list[Path]:
    """Where `/tmp` of these processes is found, each once; what starts a cell has this machine's, which is left out."""
    own = Path("/tmp").stat()
    seen, found = {(own.st_dev, own.st_ino)}, []
    for pid in pids:
        path = Path(f"/proc/{pid}/root/tmp")
        with contextlib.suppress(OSError):
            status = path.stat()
            if (key := (status.st_dev, status.st_ino)) not in seen:
                seen.add(key)
                found.append(path)
    return found


def everybody() -> list[int]:
    return sorted(int(path.name) for path in Path("/proc").glob("[0-9]*"))
