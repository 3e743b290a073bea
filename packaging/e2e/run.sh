#!/usr/bin/env bash
# The tests that need the real trainer. It is the one that the quickstart uses, or is installed as for the quickstart.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mapfile -t trainer < <("$here/../quickstart/trainer-env.sh" "${XDG_STATE_HOME:-$HOME/.local/state}/fettle/quickstart/venv")
[ "${#trainer[@]}" -eq 2 ] || exit 1
cd "$here/../.."
FETTLE_E2E_ENGINE=${trainer[0]} FETTLE_E2E_PYTHON=${trainer[1]} go test -count=1 -timeout 15m -v ./packaging/e2e -run 'TestTraining'
