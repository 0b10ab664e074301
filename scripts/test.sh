#!/usr/bin/env bash
# Runs pytest on one Qt binding, with a process for each core (at most four: each takes 1.5 GB). On
# Linux each has a virtual screen. `-n 0` among the arguments runs all of it in one.
#
#   scripts/test.sh VENV QT [PYTEST ARGUMENT...]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
qt=$2
shift 2

scripts/setup.sh --gui "$venv" "$qt,test,dev"
export QT_API=$qt
# The networks of the tests are so small that a second thread costs more than it brings.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# A process that has no tests left takes over half of those that another still has before it.
exec "$venv/bin/python" -m pytest -n logical --maxprocesses 4 --dist worksteal "$@"
