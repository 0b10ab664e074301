#!/usr/bin/env bash
# Scores a real scan with a released model and shows it: in napari where there is a display,
# as files in demo_out/ where there is none.
#
#   scripts/demo.sh VENV QT
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
qt=$2

if [ "$(uname)" = Darwin ] || [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
    scripts/setup.sh --gui "$venv" "$qt"
    export QT_API=$qt
    demo=(demo)
else
    scripts/setup.sh "$venv" ""
    demo=(demo --headless --out demo_out)
fi
exec "$venv/bin/napari-spatial-ar" "${demo[@]}"
