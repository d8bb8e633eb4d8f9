#!/usr/bin/env bash
# Sets up Remit in this checkout: Debian packages that are missing, then a virtual environment in .venv with locked wheels.
# Idempotent: it does only what is not done yet, and says what it does. Usage: scripts/setup.sh [runtime|dev]
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-dev}
lock=requirements/$kind.txt
say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 1; }

# The distribution's own interpreter first: it is built with profile-guided optimisation, others on PATH often are not.
usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
for python in ${REMIT_PYTHON:-/usr/bin/python3 python3}; do usable "$python" && break; python=; done
[ -n "$python" ] || fail "python3 3.11 or later is needed" "apt-get install python3, or name another one in REMIT_PYTHON"

# command to look for : Debian package that has it
needed=(bwrap:bubblewrap nft:nftables ip:iproute2 curl:curl)
[ "$kind" = dev ] && needed+=(
  wrk:wrk h2load:nghttp2-client psql:postgresql-client
  pg_ctlcluster:postgresql redis-server:redis-server sshd:openssh-server ssh:openssh-client
  node:nodejs npm:npm javac:default-jdk-headless mvn:maven gh:gh skopeo:skopeo  # clients that tests run in cells
)
missing=()
for pair in "${needed[@]}"; do
  PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
[ -e /usr/lib/x86_64-linux-gnu/libseccomp.so.2 ] || [ -e /usr/lib/aarch64-linux-gnu/libseccomp.so.2 ] || missing+=(libseccomp2)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "missing: ${missing[*]}" "install these with your package manager (only Debian 12 is verified)"
  if [ "$(id -u)" = 0 ]; then as=(); elif command -v sudo >/dev/null; then as=(sudo); else
    fail "missing: ${missing[*]}, and only root can install them" "apt-get install ${missing[*]}"
  fi
  say "installing Debian packages: ${missing[*]}"
  "${as[@]}" apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive "${as[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

[ -x .venv/bin/python ] || { say "making .venv with $python"; "$python" -m venv .venv; }
stamp=.venv/.remit-$(sha256sum "$lock" pyproject.toml | sha256sum | cut -c1-16)-$kind
if [ ! -e "$stamp" ]; then
  say "installing $(grep -c '==' "$lock") locked packages into .venv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . >&2
  touch "$stamp"
fi
# Most processes run as users that cannot write here, so each would compile every module again at its start.
.venv/bin/python -m compileall -q src
# The real OPA as a library, which tests hold every policy pack against. It declares Python 3.14 and needs only ctypes, so
# the resolver of the other locks cannot have it; there is a wheel for one platform.
stamp=.venv/.remit-opa-$(sha256sum requirements/opa.txt | cut -c1-16)
if [ "$kind" = dev ] && [ "$(uname -m)" = x86_64 ] && [ ! -e "$stamp" ]; then
  say "installing OPA's engine for the tests"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --ignore-requires-python \
    -r requirements/opa.txt >&2
  touch "$stamp"
fi
say "ready: .venv/bin/remit"
