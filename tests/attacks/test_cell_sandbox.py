"""Out of the cell: what an agent tries against its sandbox, in a real one. Each attempt must fail, and be harmless."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cells_rig import Rig, until
from cells_rig import node as node

from remit.cell import limits

_CALL = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(*words):
    ctypes.set_errno(0)
    result = libc.syscall(*(ctypes.c_long(w) if isinstance(w, int) else w for w in words))
    return 'ok' if result >= 0 else errno.errorcode[ctypes.get_errno()]
"""


def _tried(node: Rig, expression: str) -> str:
    done = node.python(f"{_CALL}\nprint({expression})")
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


@pytest.mark.parametrize(
    ("what", "expression", "refusal"),
    [
        ("ptrace another process", "call(101, 16, 1, 0, 0)", "EPERM"),
        ("read another process's memory", "call(310, 1, 0, 0, 0, 0, 0)", "EPERM"),
        ("take a descriptor of another process", "call(438, 1, 0, 0)", "EPERM"),
        ("make a user namespace", "call(272, 0x10000000)", "EPERM"),
        ("make a network namespace", "call(272, 0x40000000)", "EPERM"),
        ("clone into a user namespace", "call(56, 0x10000000 | 17, 0, 0, 0, 0)", "EPERM"),
        ("clone3, whose flags a filter cannot see", "call(435, 0, 0)", "ENOSYS"),
        ("enter another namespace", "call(308, os.open('/proc/self/ns/net', 0), 0)", "EPERM"),
        ("mount", "call(165, b'x', b'/tmp', b'tmpfs', 0, 0)", "EPERM"),
        ("mount by the new interface", "call(430, b'tmpfs', 0)", "EPERM"),
        ("copy a mount", "call(428, -100, b'/', 1)", "EPERM"),
        ("pivot the root", "call(155, b'/tmp', b'/tmp')", "EPERM"),
        ("chroot", "call(161, b'/tmp')", "EPERM"),
        ("load a BPF program", "call(321, 5, 0, 0)", "EPERM"),
        ("watch with perf", "call(298, 0, 0, -1, -1, 0)", "EPERM"),
        ("io_uring", "call(425, 8, 0)", "EPERM"),
        ("add a key", "call(248, b'user', b'a', b'b', 1, -3)", "EPERM"),
        ("join a keyring", "call(250, 1, 0)", "EPERM"),
        ("userfaultfd", "call(323, 0)", "EPERM"),
        ("open a file by its handle", "call(304, -100, 0, 0)", "EPERM"),
        ("load a module", "call(175, 0, 0, b'')", "EPERM"),
        ("reboot", "call(169, 0, 0, 0, 0)", "EPERM"),
        ("set the clock", "call(227, 0, 0)", "EPERM"),
        ("read the kernel's log", "call(103, 2, 0, 0)", "EPERM"),
        ("turn off address randomisation", "call(135, 0x40000)", "EPERM"),
        ("type into a terminal", "call(16, 0, 0x5412, b'x')", "EPERM"),
        ("type into a terminal, the number's high bits set", "call(16, 0, 0x100005412, b'x')", "EPERM"),
        ("paste into a console", "call(16, 0, 0x541C, b'x')", "EPERM"),
        ("become root", "call(105, 0)", "EINVAL"),
        ("take a capability", "call(126, b'\\x22\\x05\\x08\\x20\\0\\0\\0\\0', b'\\xff' * 24)", "EPERM"),
    ],
)
def test_a_system_call_that_leads_out_is_refused(node: Rig, what: str, expression: str, refusal: str) -> None:
    assert _tried(node, expression) == refusal, what


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "refusal"),
    [
        ("AF_INET", "SOCK_RAW", 1, "EPERM"),
        ("AF_INET6", "SOCK_RAW", 58, "EPERM"),
        ("AF_INET", "SOCK_DGRAM", 1, "EPERM"),
        ("AF_INET", "SOCK_STREAM", 132, "EPERM"),
        ("AF_INET", "SOCK_STREAM", 262, "EPERM"),
        ("AF_INET", "SOCK_SEQPACKET", 132, "EPERM"),
        ("AF_INET", "SOCK_DGRAM", 136, "EPERM"),
        ("AF_PACKET", "SOCK_RAW", 0x300, "EAFNOSUPPORT"),
        ("AF_VSOCK", "SOCK_STREAM", 0, "EAFNOSUPPORT"),
        ("AF_ALG", "SOCK_SEQPACKET", 0, "EAFNOSUPPORT"),
        ("AF_NETLINK", "SOCK_RAW", 12, "EPERM"),
        ("AF_NETLINK", "SOCK_RAW", 15, "EPERM"),
        ("AF_KEY", "SOCK_RAW", 2, "EAFNOSUPPORT"),
    ],
)
def test_only_unix_tcp_udp_and_route_sockets_exist(
    node: Rig, family: str, kind: str, protocol: int, refusal: str
) -> None:
    number, of = int(getattr(socket, family)), int(getattr(socket, kind))
    assert _tried(node, f"call(41, {number}, {of}, {protocol})") == refusal
    assert _tried(node, f"call(41, {number} | 1 << 32, {of}, {protocol})") in ("EAFNOSUPPORT", refusal)


def test_foreign_architectures_are_killed(node: Rig) -> None:
    x32 = "call(0x40000000 + 39)"
    done = node.python(f"{_CALL}\nprint({x32})")
    assert done.returncode in (128 + 31, 159)


def test_no_capability_and_no_new_privileges(node: Rig) -> None:
    status = node.sh("cat /proc/self/status").stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_the_first_process_of_the_cell_is_filtered_too(node: Rig) -> None:
    """It has the agent's uid, so the agent could write into it (/proc/1/mem) and would gain what it may do more."""
    assert "Seccomp:\t2" in node.sh("cat /proc/1/status").stdout.decode()


@pytest.mark.parametrize("program", ["su", "mount", "passwd", "newgrp"])
def test_setuid_programs_give_nothing(node: Rig, program: str) -> None:
    done = node.sh(f"p=$(command -v {program}) || exit 42; $p root </dev/null; id -u; cat /etc/shadow")
    assert b"root:" not in done.stdout
    assert done.returncode != 0


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/shadow", "/etc/ssh", "/etc/gitconfig", "/etc/remit/config.toml", "/root/.ssh", "/root/.npmrc"),
        *("/root/.gitconfig", "/root/.cargo/credentials.toml", "/root/.config", "/var/lib/remit", "/run/remit"),
        *("/run/systemd", "/var/run/docker.sock", "/boot/grub", "/srv", "/mnt", "/sys/kernel", "/sys/fs/cgroup"),
        *(
            "/dev/sda",
            "/dev/vda",
            "/dev/kmsg",
            "/dev/mem",
            "/dev/kvm",
            "/dev/net/tun",
            "/dev/fuse",
            "/dev/loop-control",
        ),
    ],
)
def test_what_belongs_to_the_host_is_not_there(node: Rig, path: str) -> None:
    assert node.sh(f"test -e {path}").returncode == 1


@pytest.mark.parametrize("path", ["/", "/usr", "/etc", "/usr/bin", "/dev", "/home", "/root", "/sys", "/etc/ssl/certs"])
def test_the_system_cannot_be_written(node: Rig, path: str) -> None:
    done = node.sh(f"touch {path}/x || exit 1")
    assert done.returncode == 1


def test_device_nodes_cannot_be_made(node: Rig) -> None:
    assert node.sh("mknod /tmp/disk b 254 0 || mknod /tmp/mem c 1 1").returncode == 1


def test_kernel_settings_cannot_be_written(node: Rig) -> None:
    paths = "kernel/core_pattern kernel/modprobe vm/overcommit_memory user/max_user_namespaces net/ipv4/ip_forward"
    done = node.sh(f"for p in {paths}; do echo '|/tmp/x' 2>/dev/null > /proc/sys/$p && echo wrote $p; done; true")
    assert done.stdout == b""
    assert node.sh("echo b > /proc/sysrq-trigger").returncode != 0


def test_a_crash_leaves_no_core_and_starts_no_handler(node: Rig) -> None:
    done = node.sh("ulimit -c unlimited 2>/dev/null; ulimit -Hc; sh -c 'kill -SEGV $$'; ls /tmp /home/agent")
    assert done.stdout.split()[0] == b"0"
    assert b"core" not in done.stdout


def test_processes_outside_cannot_be_seen_or_signalled(node: Rig) -> None:
    pids = [part.pid for part in node.parts.values()]
    done = node.sh(
        "ls -d /proc/[0-9]*; for p in " + " ".join(map(str, pids)) + "; do kill -9 $p && echo killed; done; true"
    )
    assert b"killed" not in done.stdout
    seen = {int(line.rsplit("/", 1)[1]) for line in done.stdout.decode().split()}
    assert max(seen) < 50
    assert node.sh("sleep 60 & kill -9 -1; sleep 0.1").returncode in (0, 137)
    assert all(part.poll() is None for part in node.parts.values())


def test_nothing_of_the_daemon_is_inherited(node: Rig) -> None:
    done = node.python("import os; print(sorted(int(f) for f in os.listdir('/proc/self/fd')))")
    assert json.loads(done.stdout) == [0, 1, 2, 3]
    task = node.detached("--", "sleep", "60")
    try:
        script = "import os; print(sorted(int(f) for f in os.listdir('/proc/self/fd')))"
        beside = node.run(task, "--", "/usr/bin/python3", "-c", script, verb="exec")
        assert json.loads(beside.stdout) == [0, 1, 2, 3], beside.stderr
    finally:
        node.ask(op="stop", task=task, grace_s=0)


def test_the_token_is_nowhere_in_the_cell(node: Rig) -> None:
    script = r"""
cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\0' '\n' | grep -a 'token-o[f]'
grep -ra 'token-o[f]' /etc /home /tmp /run /var /dev/shm 2>/dev/null
true"""
    assert node.sh(script).stdout == b""


def test_a_process_that_joins_has_no_more_than_the_first(node: Rig) -> None:
    task = node.detached("--", "sleep", "60")
    try:
        script = (
            f"{_CALL}\nprint(call(272, 0x10000000), call(165, b'x', b'/tmp', b'tmpfs', 0, 0), call(101, 16, 2, 0, 0))"
        )
        done = node.run(task, "--", "/usr/bin/python3", "-c", script, verb="exec")
        assert done.stdout.split() == [b"EPERM"] * 3
        status = node.run(task, "--", "cat", "/proc/self/status", verb="exec").stdout.decode()
        for line in ("CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp_filters:\t5"):
            assert line in status
        assert node.run(task, "--", "cat", "/proc/self/uid_map", verb="exec").stdout.split() == [b"1000", b"0", b"1"]
        assert node.run(task, "--", "touch", "/etc/x", verb="exec").returncode == 1
    finally:
        node.ask(op="stop", task=task, grace_s=0)


def test_two_cells_share_no_uid_no_files_and_no_abstract_sockets(node: Rig) -> None:
    listen = (
        "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('\\0shared'); s.listen();"
        " open('/tmp/up', 'w'); open('/dev/shm/up', 'w'); time.sleep(60)"
    )
    first = node.detached("--", "/usr/bin/python3", "-c", listen)
    try:
        until(lambda: node.run(first, "--", "test", "-e", "/dev/shm/up", verb="exec").returncode == 0, "the listener")
        other = node.python(
            "import os, socket, errno\ns = socket.socket(socket.AF_UNIX)\n"
            "print(errno.errorcode[s.connect_ex('\\0shared')])\n"
            "print(os.path.exists('/tmp/up'), os.path.exists('/dev/shm/up'))"
        )
        assert other.stdout.split() == [b"ECONNREFUSED", b"False", b"False"]
        (running,) = [cell for cell in node.tasks() if cell["task"] == first]
        uid = Path(f"/proc/{running['pid']}/status").read_text().split("Uid:\t")[1].split("\t")[0]
        assert int(uid) == 0x70000000 + running["cell"]
    finally:
        node.ask(op="stop", task=first, grace_s=0)


def test_an_abstract_socket_of_the_host_is_out_of_reach(node: Rig) -> None:
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        sock.bind("\0remit-test-host")
        sock.listen()
        datagram.bind("\0remit-test-host-d")
        done = node.python(
            "import socket, errno\n"
            "for kind, name in ((socket.SOCK_STREAM, '\\0remit-test-host'), (socket.SOCK_DGRAM, '\\0remit-test-host-d')):\n"
            "    print(errno.errorcode[socket.socket(socket.AF_UNIX, kind).connect_ex(name)])"
        )
    assert done.stdout.split() == [b"ECONNREFUSED"] * 2


def test_a_double_fork_does_not_outlive_its_task(node: Rig) -> None:
    script = "(setsid nohup sh -c 'exec sleep 7777' </dev/null >/dev/null 2>&1 &); sleep 0.2; exit 0"
    assert node.sh(script).returncode == 0
    assert not _running("sleep", "7777")


def _running(*argv: str) -> list[int]:
    wanted = b"\0".join(word.encode() for word in argv) + b"\0"
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes() == wanted:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_fork_bomb_stays_in_its_cell(node: Rig) -> None:
    script = (
        "import os, errno\nn = 0\n"
        "try:\n  while n < 2000:\n    if os.fork() == 0: os.read(0, 1) or os._exit(0)\n    n += 1\n"
        "except OSError as e: print(n, errno.errorcode[e.errno], flush=True)\nos._exit(0)"
    )
    done = node.python(script)
    count, why = done.stdout.decode().split()
    assert int(count) <= 130
    assert why == "EAGAIN"
    assert node.sh("true").returncode == 0


_SPIN = ("sh", "-c", "while :; do :; done")
_OURS = "import time\nwhile time.process_time() < 0.5: pass"


@pytest.mark.skipif(os.geteuid() != 0, reason="without root the system may not let us weigh the cells")
def test_sessions_without_end_take_no_more_of_a_processor_than_one_other_program(node: Rig) -> None:
    """The boundary is a few such programs. Without groups the kernel gives each session as much as each of those."""
    task = node.detached("--", "sh", "-c", f"for i in $(seq 40); do setsid {_SPIN[0]} -c '{_SPIN[2]}' & done; wait")
    spinning = until(lambda: len(found := _running(*_SPIN)) == 40 and found, "the sessions")
    for pid in spinning:
        os.sched_setaffinity(pid, {0})
    before = _ticks(spinning)
    subprocess.run(
        ["taskset", "-c", "0", sys.executable, "-c", _OURS], start_new_session=True, timeout=60, check=True
    )  # fmt: skip
    theirs_s = (_ticks(spinning) - before) / os.sysconf("SC_CLK_TCK")
    node.ask(op="stop", task=task)
    node.gone(task)
    assert theirs_s < 3 * 0.5, "of half a second; equal parts are fair, forty are not"


@pytest.mark.skipif(os.geteuid() != 0, reason="without root the system may not let us limit the cells")
def test_all_cells_together_leave_the_node_processes_and_memory(node: Rig) -> None:
    """Each has its limit, and two hundred times that is more than a machine has."""
    task = node.detached("--", "sleep", "5151")
    pid = until(lambda: _running("sleep", "5151"), "the sleeper")[0]
    files = [group.parent / name for group in _groups(pid) for name in _MOST]
    found = {file.name: file.read_text().strip() for file in files if file.exists()}
    node.ask(op="stop", task=task, grace_s=0)
    node.gone(task)
    most = limits.together()
    page = os.sysconf("SC_PAGE_SIZE")
    assert most.memory_bytes is not None
    assert found["pids.max"] == str(most.processes)
    memory = found.get("memory.max", "max")
    memory = found["memory.limit_in_bytes"] if memory == "max" else memory
    assert memory == str(most.memory_bytes // page * page)


_MOST = ("pids.max", "memory.max", "memory.limit_in_bytes")


def _groups(pid: int) -> list[Path]:
    """The directories of the groups that a process of a cell is in."""
    where = limits.tree()
    found = [path for home in (*where.v1.values(), where.v2) if home for path in home.glob("remit-*-cells/*/")]
    return [path for path in found if str(pid) in (path / "cgroup.procs").read_text().split()]


def _ticks(pids: list[int]) -> int:
    return sum(sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) for pid in pids)


def test_a_memory_bomb_ends_its_task_and_is_told(node: Rig) -> None:
    done = node.python("x = []\nwhile True: x.append(bytearray(16 << 20))")
    assert done.returncode == 137
    assert b"memory limit" in done.stderr
    assert node.sh("true").returncode == 0


def test_connections_that_nobody_reads_hold_no_more_than_the_cells_memory(node: Rig) -> None:
    """What TCP has queued is the kernel's memory, of which the whole machine has one share (tcp_mem)."""
    done = node.python(
        "import resource, socket\n"
        "most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n"
        "listener, kept, queued = socket.create_server(('127.0.0.1', 0)), [], 0\n"
        "for _ in range(min(most // 2 - 50, 1500)):\n"
        "    one = socket.create_connection(listener.getsockname()); kept += [one, listener.accept()[0]]\n"
        "    one.setblocking(False)\n"
        "    try:\n"
        "        while True: queued += one.send(bytes(1 << 16))\n"
        "    except BlockingIOError: pass\n"
        "print(queued >> 20)\n"
    )
    assert done.returncode == 137 or int(done.stdout) < 256, done
    assert node.sh("true").returncode == 0


@pytest.mark.parametrize("where", ["/tmp", "/home/agent", "/dev/shm", "/var/tmp"])
def test_filling_a_disk_fills_only_the_cells_own(node: Rig, where: str) -> None:
    done = node.sh(f"head -c 100000000 /dev/zero > {where}/big; echo; stat -c %s {where}/big")
    assert int(done.stdout.split()[-1]) <= 64 << 20
    assert b"No space left" in done.stderr


def test_filling_inodes_fills_only_the_cells_own(node: Rig) -> None:
    done = node.python(
        "import errno\nn = 0\n"
        "try:\n  while n < 200000:\n    open(f'/tmp/{n}', 'w').close(); n += 1\n"
        "except OSError as e: print(errno.errorcode[e.errno], n)"
    )
    why, count = done.stdout.decode().split()
    assert why == errno.errorcode[errno.ENOSPC]
    assert int(count) < 20000


def test_a_flood_of_output_does_not_fill_the_daemon(node: Rig) -> None:
    """A client that reads nothing makes the command wait, and the daemon keeps answering others."""
    client = node.popen("--", "sh", "-c", "yes")
    time.sleep(0.5)
    assert node.sh("true").returncode == 0
    resident = Path(f"/proc/{node.parts['cells'].pid}/status").read_text().split("VmRSS:")[1].split()[0]
    assert int(resident) < 120_000
    client.kill()
    client.communicate()
    until(lambda: node.tasks() == [], "the task to end with its client")


def test_garbage_on_the_daemons_socket_harms_nobody(node: Rig) -> None:
    def throw(data: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(node.run_dir / "cells.sock"))
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while more := sock.recv(4096):
                answer += more
            return answer

    hostile = (
        *(b"", b"J", b"J\xff\xff\xff\xff", b"X\x00\x00\x00\x01x", b"J\x00\x00\x00\x02{]", b"J\x00\x00\x00\x02[]"),
        b"J\x00\x00\x00\x0c" + b'{"op":"run"}',
        b"J\x00\x00\x00\x0d" + b'{"op":"nope"}',
        b"J\x00\x01\x00\x00" + b"[" * 65536,
    )
    threads = [threading.Thread(target=throw, args=(data,)) for data in hostile]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert node.sh("exit 6").returncode == 6


def test_a_client_that_breaks_the_protocol_takes_its_task_along(node: Rig) -> None:
    """As one that hangs up does: nobody would be left to stop it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(node.run_dir / "cells.sock"))
        body = json.dumps({"op": "run", "role": "devops", "argv": ["sleep", "600"]}).encode()
        sock.sendall(struct.pack(">cI", b"J", len(body)) + body)
        with sock.makefile("rb") as file:
            size = struct.unpack(">cI", file.read(5))[1]
            task = json.loads(file.read(size))["task"]
            sock.sendall(b"X\0\0\0\1x")
            answer = file.read()
    assert b"no frame of this protocol" in answer
    node.gone(task)


def test_the_sockets_are_only_for_their_users(node: Rig) -> None:
    assert (node.run_dir / "cells.sock").stat().st_mode & 0o777 == 0o600
    forward = (node.run_dir / "forward/forward.sock").stat()
    assert (forward.st_mode & 0o777, forward.st_uid) == (0o600, 64_990)


def test_output_that_a_terminal_would_act_on_stays_out_of_errors(node: Rig) -> None:
    done = node.run("--cwd", "\x1b]0;owned\x07/../..", "--workspace", "/tmp", "--", "true")
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr
