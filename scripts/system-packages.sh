#!/usr/bin/env bash
# Installs what the tests need from Debian and is not there yet. Starts none of it.
set -euo pipefail
wanted=()
need() { # need PROGRAM PACKAGE
  PATH=$PATH:/usr/sbin command -v "$1" >/dev/null || wanted+=("$2")
}
need curl curl
need age age
need openssl openssl
need nginx nginx-light
need caddy caddy
need chromium chromium
[ -e /usr/share/fonts/truetype/dejavu ] || wanted+=(fonts-dejavu-core)
[ ${#wanted[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "The tests need these Debian packages: ${wanted[*]}" >&2
  exit 1
fi
policy=/usr/sbin/policy-rc.d # Debian asks it before a package starts its service; 101 is no
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod +x "$policy"
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}"
