"""Archives that the user saved by name; their passwords and tokens are in the keyring."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from napari_spatial_ar.archive.access import Access, forget_credentials
from napari_spatial_ar.archive.address import Address, check_ae_title, is_url, parse_address
from napari_spatial_ar.errors import InputError, NameTakenError
from napari_spatial_ar.imaging.files import atomic_write_text
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.paths import archives_file

__all__ = ["SavedArchive", "address_of", "remove_archive", "save_archive", "saved_archives"]

_NAME = re.compile(r"\w[\w .-]{0,63}")


class SavedArchive(BaseModel):
    """An archive as it is saved: where it is and how to reach it, without secrets."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    url: str
    aet: str = "NSAR"
    ca_file: str | None = None
    certificate: str | None = None
    key: str | None = None
    timeout: float = Field(default=30.0, gt=0, le=3600)
    receive_port: int = Field(default=11112, ge=0, le=65535)

    @property
    def address(self) -> Address:
        """Where it is (`InputError` if the URL is not valid)."""
        return parse_address(self.url)

    def access(self) -> Access:
        """How to reach it (`InputError` if a file is gone)."""
        return Access(
            aet=check_ae_title(self.aet, "calling"),
            ca_file=None if self.ca_file is None else Path(self.ca_file),
            certificate=None if self.certificate is None else Path(self.certificate),
            key=None if self.key is None else Path(self.key),
            timeout=self.timeout,
            receive_port=self.receive_port,
        )


class _SavedFile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    version: int = 1
    archives: dict[str, SavedArchive] = {}


def saved_archives() -> dict[str, SavedArchive]:
    """Read the archives by name, in the order in which they were saved.

    Raises
    ------
    InputError
        If their file is damaged.
    """
    path = archives_file()
    try:
        return parse_json(path.read_bytes(), _SavedFile).archives
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(
            "the list of archives cannot be read", path=path, fix="Repair or remove this file"
        ) from error


def save_archive(name: str, archive: SavedArchive, *, overwrite: bool = False) -> None:
    """Save an archive by name.

    Raises
    ------
    InputError
        If the name or the URL is not valid.
    NameTakenError
        If there is one of this name, unless it may be overwritten.
    StorageError
        If it cannot be written.
    """
    if not _NAME.fullmatch(name) or is_url(name):
        raise InputError(
            "this is not a name for an archive",
            fix="Use letters, digits, blanks, '.', '-' and '_', at most 64",
        )
    archive = archive.model_copy(update={"url": archive.address.url})
    archive.access()
    found = saved_archives()
    if name in found and not overwrite:
        raise NameTakenError(f"there is an archive '{name}' already", fix="Use --overwrite")
    _write({**found, name: archive})


def remove_archive(name: str) -> SavedArchive:
    """Forget an archive, and its credentials unless another name has the same URL.

    Raises
    ------
    InputError
        If there is none of this name.
    """
    found = saved_archives()
    if name not in found:
        raise _unknown(name)
    gone = found.pop(name)
    _write(found)
    if all(other.url != gone.url for other in found.values()):
        forget_credentials(gone.address)
    return gone


def _write(archives: dict[str, SavedArchive]) -> None:
    kept = _SavedFile(archives=archives)
    atomic_write_text(archives_file(), kept.model_dump_json(indent=2) + "\n")


def address_of(name_or_url: str) -> tuple[Address, Access]:
    """Where an archive is and how to reach it: a URL, or the name of a saved archive.

    Raises
    ------
    InputError
        If it is neither.
    """
    if is_url(name_or_url):
        return parse_address(name_or_url), Access()
    found = saved_archives().get(name_or_url)
    if found is None:
        raise _unknown(name_or_url)
    return found.address, found.access()


def _unknown(name: str) -> InputError:
    return InputError(
        f"'{name}' is neither the URL of an archive nor the name of a saved one",
        fix="Use http(s)://HOST:PORT/dicom-web or dicom://AET@HOST:PORT, or see 'archive list'",
    )
