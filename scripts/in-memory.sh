#!/usr/bin/env bash
# Runs a command with its temporary files in memory, where a sync costs nothing, and removes them:
# scripts/in-memory.sh VENV COMMAND…
# They are on the disk as ever where /dev/shm is missing, small, or keeps no attributes of files
# (Linux before 6.6).
set -euo pipefail
venv=$1
shift
fits() {
  "$venv/bin/python" - "$1" <<'PY' 2>/dev/null
import os, shutil, sys
os.setxattr(sys.argv[1], "user.upwell", b"")
sys.exit(shutil.disk_usage(sys.argv[1]).free < 2 << 30)
PY
}
if folder=$(mktemp -d -p /dev/shm upwell-check-XXXXXX 2>/dev/null); then
  trap 'rm -rf "$folder"' EXIT
  if fits "$folder"; then export TMPDIR=$folder; fi
fi
"$@"
