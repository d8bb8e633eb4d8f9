"""A node whose clocks can be set, one part's or all, while the machine's own stays as it is.

The node runs in a mount namespace of its own, in which the dynamic linker loads a library into every program: it adds to
the time of day what stands in a file. Time that passes (CLOCK_MONOTONIC) is left alone, as it is when somebody sets a
clock. Needs root and a C compiler.
"""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

PARTS = ("all", "control", "decide", "envoy", "forward")
_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *skews;
static int part;

/* Which part this process is says its command line: `-m remit.app NAME`, or the path of Envoy. */
__attribute__((constructor)) static void begin(void) {
  static const char *names[] = {"control", "decide", "envoy", "forward"};
  char line[4096];
  int file = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t size = file < 0 ? 0 : read(file, line, sizeof line - 1);
  if (file >= 0) close(file);
  if (size > 0) {
    const char *before = "";
    line[size] = 0;
    for (char *at = line; at < line + size; before = at, at += strlen(at) + 1)
      for (int n = 0; n < 4; n++)
        if (!strcmp(before, "remit.app") && !strcmp(at, names[n])) part = n + 1;
    size_t length = strlen(line);
    if (length >= 5 && !strcmp(line + length - 5, "envoy")) part = 3;
  }
  file = open(SKEWS, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  void *found = mmap(0, 4096, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (found != MAP_FAILED) skews = found;
}

int clock_gettime(clockid_t id, struct timespec *at) {
  int failed = syscall(SYS_clock_gettime, id, at);
  if (!failed && skews && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
    at->tv_sec += skews[0] + (part ? skews[part] : 0);
  return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
"""


class Clocks:
    """`around` is for `Instance.around`. `directory` must be readable by the node's users."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o755)
        (directory / "etc").mkdir(mode=0o755)
        skews, library = directory / "skews", directory / "skew.so"
        skews.write_bytes(bytes(mmap.PAGESIZE))
        command = ["cc", "-O2", "-shared", "-fPIC", f'-DSKEWS="{skews}"', "-o", str(library), "-x", "c", "-"]
        subprocess.run(command, input=_SOURCE, text=True, check=True, capture_output=True)
        (directory / "etc/ld.so.preload").write_text(f"{library}\n")
        for path in (skews, library, directory / "etc/ld.so.preload"):
            path.chmod(0o755)
        mount = f'mount -t overlay -o "lowerdir={directory}/etc:/etc" overlay /etc && exec "$@"'
        self.around = ("unshare", "--mount", "sh", "-c", mount, "sh")
        with skews.open("r+b") as file:
            self._skews = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def set(self, part: str, seconds: int) -> None:
        """The clock of `part` is ahead by so much from now on."""
        struct.pack_into("q", self._skews, PARTS.index(part) * 8, seconds)
