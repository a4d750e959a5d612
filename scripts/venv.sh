#!/usr/bin/env bash
# Makes the virtual environment that the Makefile works in: scripts/venv.sh PYTHON FOLDER
set -euo pipefail
python=$1 venv=$2

"$python" - <<'PY' || { echo "Upwell needs Python 3.11 or newer; set PYTHON=python3.11 (or newer)." >&2; exit 1; }
import sys
sys.exit(sys.version_info < (3, 11))
PY

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq python3-venv
  else
    echo "Python's venv module is missing. On Debian: sudo apt-get install python3-venv" >&2
    exit 1
  fi
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt uv
"$venv/bin/uv" pip install -q --python "$venv/bin/python" -c constraints.txt -e '.[server,media]' --group dev
touch "$venv/.installed"
