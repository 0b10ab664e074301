#!/usr/bin/env bash
# Installs the wheel as a user does (napari[pyqt6] and nothing pinned) into a fresh environment of
# each Python, and tries it: the manifest, the demo without a display, the tests that need no window.
#
#   scripts/test_pythons.sh [PYTHON...]
#
# A Python that is not on this machine is left out, and said. PyTorch for Linux is several GB unless
# pip is told of a CPU build.
set -euo pipefail
cd "$(dirname "$0")/.."

pythons=("$@")
# Those that pyproject.toml claims.
[ $# -gt 0 ] || pythons=(python3.11 python3.12 python3.13)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} QT_API=pyqt6

said=()
wheel=""
for python in "${pythons[@]}"; do
    if ! "$python" --version >/dev/null 2>&1; then
        said+=("$python: not on this machine")
        continue
    fi
    venv=$place/venv
    rm -rf "$venv" "$place/tree"
    "$python" -m venv "$venv"
    if [ -z "$wheel" ]; then
        "$venv/bin/pip" wheel --quiet --no-deps --wheel-dir "$place/dist" .
        wheel=$(echo "$place"/dist/*.whl)
    fi
    "$venv/bin/pip" install --quiet --no-compile "napari[pyqt6]" "$wheel"
    "$venv/bin/npe2" validate napari-spatial-ar
    "$venv/bin/napari-spatial-ar" demo --headless --out "$place/demo" >/dev/null
    # The tests without the checkout's package beside them, so that they import the wheel's.
    mkdir "$place/tree"
    cp -r docs models tests pyproject.toml "$place/tree/"
    "$venv/bin/pip" install --quiet --no-compile "napari-spatial-ar[test] @ file://$wheel"
    (cd "$place/tree" && "$venv/bin/python" -m pytest -q -p no:cacheprovider \
        --ignore=tests/gui tests/*/)
    said+=("$python: $("$venv/bin/python" --version), passed")
done
printf '%s\n' "${said[@]}"
