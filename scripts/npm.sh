#!/usr/bin/env bash
# Runs npm in web/ on the Node of the virtual environment: scripts/npm.sh VENV ARGUMENT…
set -euo pipefail
venv=$1
shift
exec "$venv/bin/python" "$(dirname "$0")/../web/build_page.py" npm "$@"
