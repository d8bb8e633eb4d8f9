"""What the kernel has only so much of for the whole machine, and counts for no cell: terminals, files, AIO, huge pages."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest
from cells_rig import Rig
from cells_rig import node as node

TERMINALS = (
    "import os\nkept = []\n"
    "try:\n  while True: kept.append(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))\n"
    "except OSError: print(len(kept), flush=True)\n"
    "os.read(0, 1)\n"
)


def test_a_cell_has_its_own_share_of_terminals(node: Rig) -> None:
    """kernel.pty.max is one number for all instances of devpts (Documentation/filesystems/devpts.rst)."""
    first = node.popen("--", "/usr/bin/python3", "-c", TERMINALS, stdin=subprocess.PIPE)
    try:
        assert first.stdout is not None
        most = int(Path("/proc/sys/kernel/pty/max").read_text())
        assert 16 <= int(first.stdout.readline()) <= most // 16
        second = node.python(
            "import os, pty\nmaster, slave = pty.openpty()\nos.write(slave, b'x')\nprint(os.ttyname(slave))"
        )
        assert second.stdout.startswith(b"/dev/pts/"), second
    finally:
        first.communicate(b"x", timeout=20)


def test_a_terminal_of_the_cells_own_works_and_is_the_agents(node: Rig) -> None:
    done = node.sh("script -qc 'tty; stat -c %U $(tty)' /dev/null </dev/null")
    assert done.stdout.decode().split() == ["/dev/pts/0", "agent"], done


def test_all_processes_of_a_cell_leave_files_for_others(node: Rig) -> None:
    """fs.file-max binds everybody but root: the node's own processes are somebody else."""
    done = node.python("import resource\nprint(resource.getrlimit(resource.RLIMIT_NOFILE)[1])")
    most, files = int(done.stdout), int(Path("/proc/sys/fs/file-max").read_text())
    assert most >= 1024
    assert most * 128 <= files // 2, "512 in a role that says nothing; the rig's cells may have 128"


def test_asynchronous_reads_are_nobodys_to_use_up(node: Rig) -> None:
    """fs.aio-max-nr is one number for the machine; libaio's users do without where the kernel has none."""
    taken = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    taken += "print(libc.syscall(206, 60000, ctypes.byref(ctypes.c_ulong())), ctypes.get_errno())"
    assert node.python(taken).stdout.split() == [b"-1", b"38"]


def test_huge_pages_that_somebody_set_aside_are_not_the_cells(node: Rig) -> None:
    """They count as no memory of its group."""
    script = (
        "import ctypes, mmap\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "try: mmap.mmap(-1, 2 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)\n"
        "except OSError as error: print(error.errno)\n"
        "for call in ((319, b'x', 4), (29, 0, 2 << 20, 0o4000 | 0o1600)): print(libc.syscall(*call), ctypes.get_errno())\n"
        "mmap.mmap(-1, 2 << 20).close()"
    )
    assert node.python(script).stdout.split() == [b"1", b"-1", b"1", b"-1", b"1"]


def test_no_socket_has_a_filter_that_is_compiled(node: Rig) -> None:
    """Compiled filters share one limit (net.core.bpf_jit_limit), and without room in it no sandbox starts."""
    script = (
        "import ctypes, socket, struct\nbuffer = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 1))\n"
        "for option in (26, 51):\n"
        "  try: socket.socket().setsockopt(1, option, struct.pack('HxxxxxxQ', 1, ctypes.addressof(buffer)))\n"
        "  except OSError as error: print(error.errno)\n"
        "socket.socket().setsockopt(1, socket.SO_REUSEADDR, 1)"
    )
    assert node.python(script).stdout.split() == [b"1", b"1"]


def test_filters_of_an_agents_own_leave_others_room_to_compile_theirs(node: Rig) -> None:
    """The same limit; each thread may have 32,768 instructions, which the cell's own filters take up."""
    script = (
        "import ctypes, struct\nlibc, held = ctypes.CDLL(None, use_errno=True), 0\n"
        "allow, divide = struct.pack('HBBI', 6, 0, 0, 0x7FFF0000), struct.pack('HBBI', 0x34, 0, 0, 3)\n"
        "def load(count):\n"
        "  buffer = ctypes.create_string_buffer(divide * (count - 1) + allow)\n"
        "  head = struct.pack('HxxxxxxQ', count, ctypes.addressof(buffer))\n"
        "  return libc.prctl(22, 2, head, 0, 0) == 0\n"
        "while load(500): held += 500\n"
        "print(held)"
    )
    assert 1000 <= int(node.python(script).stdout) <= 4000


ANSWERS = """
one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
ask = struct.pack("=IHHIIBxHiII", 32, 18, 1, 1, 0, 0, 0, 1, 0, 0)  # RTM_GETLINK, rtnetlink(7)
"""
ERRORS = """
one = socket.socket(%s, socket.SOCK_DGRAM)
for level, option, value in ((0, 11, 1), (0, 10, 2), (41, 25, 1), (41, 23, 2)):  # IP_RECVERR, IP_MTU_DISCOVER
    with contextlib.suppress(OSError): one.setsockopt(level, option, value)
one.connect(("localhost", 9))
ask = bytes(65530)
"""


@pytest.mark.parametrize(
    "what", [ANSWERS, ERRORS % "socket.AF_INET", ERRORS % "socket.AF_INET6"], ids=("netlink", "udp", "udp6")
)
def test_words_of_the_kernel_that_nobody_reads_end_their_task_and_are_told(node: Rig, what: str) -> None:
    """Answers of netlink and errors of datagrams are queued in memory that counts for no group."""
    script = (
        "import contextlib, os, resource, socket, struct\nkept, room = [], 128 << 20\n"
        "most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\nresource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n"
        f"def fill():\n{textwrap.indent(what, '    ')}"
        "    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 30)\n"
        "    size = one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)\n"
        "    for _ in range(size // 512):\n"
        "        with contextlib.suppress(OSError): one.send(ask, socket.MSG_DONTWAIT)\n"
        "    kept.append(one)\n"
        "    return size\n"
        "while room > 0: room -= fill()\n"
        "os.read(0, 1)"
    )
    child = node.popen("--", "/usr/bin/python3", "-c", script, stdin=subprocess.PIPE)
    try:
        assert child.wait(30) == 137
        assert child.stderr is not None
        assert b"sockets have queued" in child.stderr.read()
    finally:
        child.kill()
        child.communicate()
    assert node.sh("true").returncode == 0
