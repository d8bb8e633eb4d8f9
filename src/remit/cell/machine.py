"""What every cell of this machine sees of it: /usr read-only, and an /etc of its own.

The host's /etc holds its secrets and its habits (shadow, ssh keys, gitconfig with tokens, proxies). A cell's /etc is
made anew from a list: what programs need to run, our users, our resolver, our certificates. It is written once and
shared read-only; certificates are refreshed when the CA changes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from remit.cell import environment, network, provided, sandbox, truststore

COPIED = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "mime.types", "magic"),
    *("protocols", "services", "rpc", "gai.conf", "host.conf", "bash.bashrc", "profile", "inputrc", "os-release"),
    *("debian_version", "lsb-release", "issue", "login.defs", "shells", "terminfo", "fonts", "xdg", "skel"),
    *("ssl/certs", "ssl/openssl.cnf", "pki/tls/openssl.cnf", "crypto-policies", "ca-certificates.conf"),
    *("perl", "python3", "python3.11", "python3.12", "python3.13", "java-17-openjdk", "java-21-openjdk", "java"),
    *("maven", "vim", "nanorc", "less", "ImageMagick-6", "locale.conf", "locale.alias", "manpath.config"),
)
_ROOTS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_MAX_BYTES = 32 << 20
_SKIPPED = ("*.key", "*.lock", "private", "*-")


def system() -> tuple[tuple[str, str, str], ...]:
    """The read-only system: (bind|symlink, source, target), as this host lays it out (merged /usr or not)."""
    found: list[tuple[str, str, str]] = []
    for name in _ROOTS:
        path = Path("/", name)
        if path.is_symlink():
            found.append(("symlink", str(path.readlink()).removeprefix("/"), str(path)))
        elif path.is_dir():
            found.append(("bind", str(path), str(path)))
    cpus = "/sys/devices/system/cpu"
    if Path(cpus).is_dir():
        found.append(("bind", cpus, cpus))
    return tuple(found)


class Etc:
    """The shared /etc at `root` (made by `write`). `search`: domains that resolvers complete short names with."""

    def __init__(self, root: Path, *, bundle: Path, certificate: Path | None, search: Sequence[str]) -> None:
        self._root, self._bundle, self._certificate, self._search = root, bundle, certificate, search
        self._seen: tuple[object, ...] = ()

    def write(self) -> None:
        self._root.mkdir(mode=0o755)
        for name in COPIED:
            self._copy(Path("/etc") / name, self._root / name)
        for files, mode in ((_files(self._search), 0o644), (provided.files(), 0o755)):
            for name, text in files.items():
                target = self._root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
                target.chmod(mode)
        (self._root / "mtab").symlink_to("/proc/self/mounts")
        self.refresh()

    def _copy(self, source: Path, target: Path) -> None:
        if not source.exists() or (source.is_symlink() and not source.resolve().is_file()):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(*_SKIPPED))
            elif source.stat().st_size <= _MAX_BYTES:
                shutil.copy2(source, target)
        except OSError:
            # Programs live without any of these; a socket or an unreadable file among them stops nobody.
            return

    def refresh(self) -> None:
        """Copy the certificates again where they changed since. `OSError`: there is no CA bundle yet."""
        now = tuple(_stamp(path) for path in (self._bundle, self._certificate))
        if now == self._seen:
            return
        if now[0] is None:
            raise FileNotFoundError(2, "no CA bundle", str(self._bundle))
        bundle = self._bundle.read_bytes()
        certificate = self._certificate.read_bytes() if self._certificate is not None else bundle
        for target, content in (
            (environment.BUNDLE, bundle),
            (environment.CERTIFICATE, certificate),
            (environment.JAVA_STORE, truststore.from_pem(bundle, environment.JAVA_PASSWORD)),
        ):
            _replace(self._root / target.removeprefix("/etc/"), content)
        self._seen = now


def _stamp(path: Path | None) -> object:
    try:
        return (path.stat().st_mtime_ns, path.stat().st_size) if path is not None else None
    except OSError:
        return None


def _replace(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".new")
    temporary.write_bytes(content)
    temporary.chmod(0o644)
    os.replace(temporary, target)


def _files(search: Sequence[str]) -> dict[str, str]:
    user, group, uid, gid = sandbox.USER, sandbox.GROUP, sandbox.UID, sandbox.GID
    return {
        "passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\n{user}:x:{uid}:{gid}:agent:{sandbox.HOME}:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        "group": f"root:x:0:\ntty:x:5:\n{group}:x:{gid}:\nnogroup:x:65534:\n",
        "hosts": f"127.0.0.1 localhost {sandbox.HOSTNAME}\n::1 localhost ip6-localhost ip6-loopback\n",
        "hostname": f"{sandbox.HOSTNAME}\n",
        # Nothing is lost on the way, but on a crowded node an answer may be late: no reason to give up soon.
        "resolv.conf": f"nameserver {network.RESOLVER}\noptions timeout:2 attempts:4\n"
        + (f"search {' '.join(search)}\n" if search else ""),
        "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
        "networks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n",
    }
