"""Open an archive by its URL, or by the name under which the user saved it."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

from napari_spatial_ar.archive.access import Access, credentials_for, need_extra
from napari_spatial_ar.archive.address import Address, is_loopback, parse_address
from napari_spatial_ar.archive.interface import Archive
from napari_spatial_ar.errors import Notice

__all__ = ["check_extra", "open_archive"]

_PACKAGES = ("pynetdicom", "dicomweb_client", "keyring")


def open_archive(url: str | Address, access: Access | None = None) -> Archive:
    """Open an archive; nothing is sent to it yet.

    Parameters
    ----------
    url : str or Address
        ``http(s)://HOST:PORT/dicom-web`` (DICOMweb) or ``dicom(s)://AET@HOST:PORT`` (DIMSE).
    access : Access, optional
        How it may be reached. Credentials that it does not hold are those of `credentials_for`.

    Raises
    ------
    InputError
        If the URL has neither form, a file of certificates cannot be used, or a package of the
        extra ``pacs`` is missing.
    """
    address = url if isinstance(url, Address) else parse_address(url)
    access = access or Access()
    if not address.web:
        try:
            from napari_spatial_ar.archive.dimse import Dimse
        except ImportError as error:
            raise need_extra(error) from error
        return Dimse(address, access)
    try:
        from napari_spatial_ar.archive.dicomweb import DicomWeb
    except ImportError as error:
        raise need_extra(error) from error
    credentials = access.credentials or credentials_for(address)
    if credentials is not None and not address.tls and not is_loopback(address.host):
        warnings.warn(
            f"the credentials for {address} travel unencrypted: ask for an https:// address.",
            Notice,
            stacklevel=2,
        )
    return DicomWeb(address, access, credentials)


def check_extra() -> None:
    """Look for the packages of the extra ``pacs``, without importing them.

    Raises
    ------
    InputError
        If one is missing.
    """
    for name in _PACKAGES:
        if find_spec(name) is None:
            raise need_extra(ModuleNotFoundError(name=name))
