"""The seccomp filters of a cell, as BPF programs for bubblewrap (seccomp(2)).

Two that filter, because a rule with arguments and a rule without exclude each other in one: the first knows which calls
exist at all, the second which arguments are refused. The kernel takes the stricter answer of the two, and between two
refusals that of the filter loaded last. Two more take room (`_filling`). Foreign architectures (i386, x32) are killed,
libseccomp's default.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct

import pyseccomp

from remit.cell import syscalls

_CLONE_NEW = 0x7E020080
"""Every CLONE_NEW* bit: cgroup, uts, ipc, user, pid, net, mount, time (sched.h)."""
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423
"""Type into a terminal, its console extras, its line disciplines."""
_LOW32 = 0xFFFFFFFF
_SET_ID_BITS = (0o4000, 0o2000)
_MODES = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "creat": 1, "mknod": 1, "mknodat": 2}
"""Calls that give a file its mode, and which argument it is."""
_OPENS = {"open": (1, 2), "openat": (2, 3)}
"""(flags, mode); the mode counts where the flags make a file."""
_O_CREAT, _O_TMPFILE = 0o100, 0o20000000
_HUGE = {"mmap": (3, 0x40000), "memfd_create": (1, 0x4), "shmget": (2, 0o4000)}
"""Huge pages that somebody set aside on this machine: (argument, bit). They are in no group's memory (cgroups(7))."""
_SOCKET, _COMPILED = 1, (26, 51)
"""SOL_SOCKET, and SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF: what is compiled for them is kernel memory, of which
there is one amount for the whole machine (net.core.bpf_jit_limit). Without some of it no further sandbox starts."""
_MAX_DOMAIN = 16
_TYPE_MASK = 0xF
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_TYPES = {_UNIX: {1, 2, 5}, _INET: {1, 2}, _INET6: {1, 2}, _NETLINK: {2, 3}}
_PROTOCOL = {1: socket.IPPROTO_TCP, 2: socket.IPPROTO_UDP}
"""Beside 0, the one protocol of a type: no ICMP, SCTP, MPTCP, UDP-Lite."""


_FILLING = (4000, 1700)
"""Instructions of `_filling`: 28,500 of those that the kernel translates them to; ours take less than 2,000 more."""


@functools.cache
def programs() -> tuple[bytes, ...]:
    """The BPF programs, in the order in which they must be loaded."""
    return *(_filling(count) for count in _FILLING), _exported(_calls()), _exported(_arguments())


def _filling(count: int) -> bytes:
    """Allows everything with its first instruction; the others are there to be counted.

    An agent may filter itself, as browsers and agents with sandboxes of their own do. But what is compiled shares one
    limit with the whole machine (net.core.bpf_jit_limit), and each thread may have 32,768 translated instructions:
    that of three cells would be all, and no sandbox could start. What we have loaded counts, and all threads share it.
    """
    allow, divide = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000), struct.pack("=HBBI", 0x3C, 0, 0, 0)
    return allow + divide * (count - 2) + allow


_SETTING_UP = frozenset(("mount", "umount2", "pivot_root", "setns", "unshare", "sethostname", "chroot"))


@functools.cache
def entering() -> bytes:
    """The program under which bubblewrap itself runs: refuses what neither it nor an agent needs.

    Between giving up its capabilities and loading the filters of the cell, a joining bubblewrap has the agent's uid and
    could be written into (/proc/PID/mem); it must not be worth it.
    """
    filters = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in sorted(syscalls.REFUSED - _SETTING_UP):
        if _known(name):
            filters.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
    return _exported(filters)


def _exported(filters: pyseccomp.SyscallFilter) -> bytes:
    descriptor = os.memfd_create("seccomp")
    with os.fdopen(descriptor, "rb") as file:
        filters.export_bpf(file)
        file.seek(0)
        return file.read()


def _calls() -> pyseccomp.SyscallFilter:
    filters = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    filters.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    for name in sorted(syscalls.ALLOWED):
        if _known(name):
            filters.add_rule(pyseccomp.ALLOW, name)
    for name in sorted(syscalls.REFUSED):
        if _known(name):
            filters.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
    return filters


def _known(name: str) -> bool:
    """Whether this libseccomp knows the call; one it does not know answers ENOSYS like everything else."""
    return bool(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0)


def _arguments() -> pyseccomp.SyscallFilter:
    filters = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refused = pyseccomp.ERRNO(errno.EPERM)
    arg, equal, masked, above = pyseccomp.Arg, pyseccomp.EQ, pyseccomp.MASKED_EQ, pyseccomp.GT
    for bit in range(32):
        if _CLONE_NEW >> bit & 1:
            filters.add_rule(refused, "clone", arg(0, masked, 1 << bit, 1 << bit))
    for request in (_TIOCSTI, _TIOCLINUX, _TIOCSETD):
        filters.add_rule(refused, "ioctl", arg(1, masked, _LOW32, request))
    for call, (number, bit) in _HUGE.items():
        filters.add_rule(refused, call, arg(number, masked, bit, bit))
    for option in _COMPILED:
        filters.add_rule(refused, "setsockopt", arg(1, equal, _SOCKET), arg(2, equal, option))
    _set_ids(filters)
    unsupported = pyseccomp.ERRNO(errno.EAFNOSUPPORT)
    for call in ("socket", "socketpair"):
        for domain in range(_MAX_DOMAIN + 1):
            if domain not in _TYPES or (call == "socketpair" and domain != _UNIX):
                filters.add_rule(unsupported, call, arg(0, equal, domain))
        filters.add_rule(unsupported, call, arg(0, above, _MAX_DOMAIN))
    for domain, types in _TYPES.items():
        for kind in range(_TYPE_MASK + 1):
            if kind not in types:
                filters.add_rule(refused, "socket", arg(0, equal, domain), arg(1, masked, _TYPE_MASK, kind))
    for domain in (_INET, _INET6):
        for kind, wanted in _PROTOCOL.items():
            this = (arg(0, equal, domain), arg(1, masked, _TYPE_MASK, kind))
            for protocol in range(1, wanted):
                filters.add_rule(refused, "socket", *this, arg(2, equal, protocol))
            filters.add_rule(refused, "socket", *this, arg(2, above, wanted))
    filters.add_rule(refused, "socket", arg(0, equal, _NETLINK), arg(2, above, 0))
    return filters


def _set_ids(filters: pyseccomp.SyscallFilter) -> None:
    """No file becomes set-user-id or set-group-id (the rules of systemd's RestrictSUIDSGID=).

    In a workspace that is bound directly a file of the agent's is, on disk, a file of the operator's: with that bit it
    would run as the operator for anybody on the host.
    """
    arg, masked, refused = pyseccomp.Arg, pyseccomp.MASKED_EQ, pyseccomp.ERRNO(errno.EPERM)
    for bit in _SET_ID_BITS:
        for call, mode in _MODES.items():
            if _known(call):
                filters.add_rule(refused, call, arg(mode, masked, bit, bit))
        for call, (flags, mode) in _OPENS.items():
            for making in (_O_CREAT, _O_TMPFILE):
                filters.add_rule(refused, call, arg(flags, masked, making, making), arg(mode, masked, bit, bit))
