#!/usr/bin/env bash
# Runs pytest on one Qt binding, under a virtual screen on Linux.
#
#   scripts/test.sh VENV QT [PYTEST ARGUMENT...]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
qt=$2
shift 2

scripts/setup.sh --gui "$venv" "$qt,test,dev"
# The tests that score a real scan need these; they are fetched once, before the tests go offline.
"$venv/bin/napari-spatial-ar" weights pull dinov2_vits14_focus \
    || echo "warning: no backbone weights, so the tests that need them are skipped" >&2
export QT_API=$qt
# The networks of the tests are so small that a second thread costs more than it brings.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [ "$(uname)" = Linux ]; then
    exec xvfb-run --auto-servernum --server-args "-screen 0 1600x1200x24" \
        "$venv/bin/python" -m pytest "$@"
fi
exec "$venv/bin/python" -m pytest "$@"
