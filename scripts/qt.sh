#!/usr/bin/env bash
# Prints the Qt binding to install: pyqt5, or pyqt6 where PyQt5 has no wheels (Linux on ARM).
set -euo pipefail
case "$(uname -sm)" in
    "Linux aarch64") echo pyqt6 ;;
    *) echo pyqt5 ;;
esac
