#!/usr/bin/env bash
# Makes the virtual environment VENV and installs this checkout into it with EXTRAS.
#
#   scripts/setup.sh VENV EXTRAS            such as: scripts/setup.sh .venv test,dev, or "" for none
#   scripts/setup.sh --gui VENV EXTRAS      also installs what Qt and OpenGL need from the system
#
# A second run with nothing changed returns at once. Works on Debian and Ubuntu (installs missing
# system packages where it may), on other Linux systems and macOS (expects them to be there).
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# What PyQt's wheels and a virtual screen load but do not contain.
GUI_PACKAGES=(
    libdbus-1-3 libegl1 libfontconfig1 libgl1 libgl1-mesa-dri libglib2.0-0 libxcb-cursor0
    libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0
    libxcb-xinerama0 libxkbcommon-x11-0 xauth xvfb
)

gui=no
if [ "${1:-}" = --gui ]; then gui=yes; shift; fi
[ $# -eq 2 ] || die "usage: scripts/setup.sh [--gui] VENV EXTRAS"
venv=$1
extras=$2

# Prints those of the Debian packages named that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        # Debian 13 and Ubuntu 24.04 renamed some libraries NAMEt64, which "provide" the old name.
        { dpkg-query -W -f '${db:Status-Status}\n' "$package" "${package}t64" 2>/dev/null || true; } \
            | grep -qx installed || echo "$package"
    done
}

may_install() { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }

install_packages() {
    local become=()
    [ "$(id -u)" -eq 0 ] || become=(sudo)
    say "installing system packages: $*"
    ${become[@]+"${become[@]}"} apt-get update -qq
    ${become[@]+"${become[@]}"} env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

# Installs the Debian packages named that are missing; where that is not allowed, says which.
need_packages() {
    if ! command -v dpkg-query >/dev/null; then
        say "not a Debian system, so it is up to you that these are there under their names: $*"
        return
    fi
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    may_install || die "these system packages are missing and need an administrator:
    sudo apt-get install ${missing[*]}
Then run this again."
    install_packages "${missing[@]}"
}

# Installs Debian packages that little depends on, where that can be done; does without elsewhere.
want_packages() {
    local missing
    command -v dpkg-query >/dev/null || return 0
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] && may_install || return 0
    install_packages "${missing[@]}" || say "without ${missing[*]}: tests that use them are skipped"
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Prints the Python to use: $PYTHON, or the first on the PATH that is new enough.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if is_new_enough "$candidate"; then echo "$candidate"; return; fi
    done
    die "Python 3.11 or newer is needed and ${PYTHON:-python3} is $("${PYTHON:-python3}" --version \
        2>/dev/null || echo not there). Install one, then: make PYTHON=/path/to/python3.11 ..."
}

make_venv() {
    local python
    [ -n "${PYTHON:-}" ] || command -v python3 >/dev/null || need_packages python3 python3-venv
    python=$(find_python)
    # Debian's own Python comes without ensurepip until its -venv package is there.
    "$python" -c 'import ensurepip' 2>/dev/null \
        || need_packages "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
}

# Makes the environment from one that was made from the same files and differs in the Qt binding
# alone, where there is one: only the binding is left to install.
make_venv_like_another() {
    local other
    [ ! -e "$venv" ] || return 1
    for other in .venv*/.installed-*; do
        [ "${other%%/*}" != "$venv" ] && [ "$(cat "$other" 2>/dev/null)" = "$made_from" ] || continue
        [ "$(without_qt "${other#*/.installed-}")" = "$(without_qt "${extras//,/-}")" ] || continue
        other=${other%%/*}
        say "making $venv like $other"
        "$other/bin/python" scripts/venv_without_qt.py "$other" "$venv" && return
        rm -rf "$venv"
    done
    return 1
}

without_qt() { sed -E 's/pyqt[0-9]+|pyside[0-9]+//' <<<"$1"; }

if [ "$gui" = yes ] && [ "$(uname)" = Linux ]; then
    need_packages "${GUI_PACKAGES[@]}"
    # dciodvfy, which checks DICOM files against the standard; a browser to open reports in; the
    # mouse and the keys of scripts/first_use.py.
    case ",$extras," in
        *,test,*)
            want_packages dicom3tools libxtst6
            want_packages chromium-headless-shell
            # An archive (PACS), which tests start themselves, and other programs that speak with one.
            new=$(missing_packages orthanc)
            want_packages orthanc orthanc-dicomweb dcmtk
            if [ -n "$new" ] && [ -d /run/systemd/system ] && may_install; then
                sudo -n systemctl disable --quiet --now orthanc || true
            fi
            ;;
    esac
    # What WeasyPrint loads for reports as PDF; the last one makes them faster and smaller, and is
    # not there in older systems.
    case ",$extras," in
        *,test,* | *,pdf,*)
            want_packages fonts-dejavu-core libpango-1.0-0 libpangoft2-1.0-0
            want_packages libharfbuzz-subset0
            ;;
    esac
fi

# The stamp holds what the environment was made from, so any change in it installs again.
stamp="$venv/.installed-${extras//,/-}"
made_from="$(cat pyproject.toml constraints.txt | cksum) $PWD"
if [ "$(cat "$stamp" 2>/dev/null)" = "$made_from" ]; then exit 0; fi

"$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv_like_another || make_venv
say "installing napari-spatial-ar${extras:+[$extras]} into $venv (some minutes the first time)"
# Python compiles what is imported at the first import; all that is installed would take a minute.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
    --constraint constraints.txt --editable ".${extras:+[$extras]}"
echo "$made_from" >"$stamp"
