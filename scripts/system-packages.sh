#!/usr/bin/env bash
# Installs what the tests need from Debian and is not there yet.
set -euo pipefail
wanted=()
command -v curl >/dev/null || wanted+=(curl)
command -v age >/dev/null || wanted+=(age)
command -v chromium >/dev/null || wanted+=(chromium)
[ ${#wanted[@]} = 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}"
else
  echo "The tests need these Debian packages: ${wanted[*]}" >&2
  exit 1
fi
