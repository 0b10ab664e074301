"""Make a virtual environment with all that another one has but its Qt binding.

    python scripts/venv_without_qt.py OTHER VENV

What both have is there once: files are hard links, which pip and Python replace and never write
into. So the second environment takes seconds and no room, and knows of one binding only.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import venv
from contextlib import suppress
from pathlib import Path
from shutil import copytree

BINDING = re.compile(r"py(qt|side)\d|shiboken", re.IGNORECASE)


def packages(environment: Path) -> Path:
    """Give the folder of an environment's packages."""
    start = str(environment)
    return Path(sysconfig.get_path("purelib", "venv", {"base": start, "platbase": start}))


def link_packages(other: Path, target: Path) -> None:
    """Link what the first folder holds into the second, but for the binding at its top."""

    def bindings(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder) == other and BINDING.match(name)]

    def link(source: str, here: str) -> None:
        # A program that runs there may be renaming what it has just compiled.
        with suppress(FileNotFoundError):
            os.link(source, here)

    copytree(other, target, symlinks=True, ignore=bindings, copy_function=link)


def copy_scripts(other: Path, target: Path) -> None:
    """Copy programs, which name the Python that runs them in their first line."""
    for path in other.iterdir():
        here = target / path.name
        if path.is_symlink() or path.is_dir() or here.exists() or BINDING.match(path.name):
            continue
        first, *rest = path.read_bytes().split(b"\n", 1)
        if first.startswith(b"#!"):
            first = first.replace(os.fsencode(other), os.fsencode(target))
        here.write_bytes(b"\n".join([first, *rest]))
        here.chmod(path.stat().st_mode)


def main(other: Path, target: Path) -> None:
    """Make ``target`` after ``other``, with the same Python."""
    venv.create(target, symlinks=True, with_pip=False)
    packages(target).rmdir()
    link_packages(packages(other), packages(target))
    scripts = Path(sysconfig.get_path("scripts", "venv", {"base": "", "platbase": ""})).name
    copy_scripts(other / scripts, target / scripts)


if __name__ == "__main__":
    main(*(Path(argument).absolute() for argument in sys.argv[1:3]))
