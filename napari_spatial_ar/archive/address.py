"""URLs of archives: http(s)://HOST:PORT/PATH for DICOMweb, dicom(s)://AET@HOST:PORT for DIMSE."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from napari_spatial_ar.errors import InputError

__all__ = ["Address", "check_ae_title", "is_loopback", "is_url", "parse_address"]

_FORMS = "Use http(s)://HOST:PORT/dicom-web or dicom://AET@HOST:PORT"
# A host name or an IPv4 address; IPv6 stands in brackets, which urlsplit removes.
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[\w.-]+)?")
# Registered ports (PS3.8 9.1.1, PS3.15 B.1).
_DICOM_PORT, _DICOM_TLS_PORT = 104, 2762
_WEB_PORTS = {"http": 80, "https": 443}
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than the name of a saved archive or a path."""
    return "://" in text


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by a name or address that nobody else can reach."""
    return _LOOPBACK.fullmatch(host) is not None


def check_ae_title(title: str, whose: str) -> str:
    """Return an AE title (PS3.5, VR AE) without blanks around it.

    Raises
    ------
    InputError
        If it is empty, longer than 16 characters or has others than printable ASCII.
    """
    title = title.strip()
    if not 0 < len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise InputError(
            f"the {whose} AE title is not valid",
            fix="Give 1 to 16 ASCII characters without backslashes",
        )
    return title


@dataclass(frozen=True, slots=True)
class Address:
    """Where an archive is.

    Parameters
    ----------
    web : bool
        DICOMweb, else DIMSE.
    tls : bool
        Whether the connection is encrypted.
    host : str
        Host name or IP address.
    port : int
        TCP port.
    path : str
        Path of the DICOMweb service, without a slash at its end.
    aet : str
        AE title of the archive, for DIMSE.
    """

    web: bool
    tls: bool
    host: str
    port: int
    path: str = ""
    aet: str = ""

    @property
    def url(self) -> str:
        """The URL, in one spelling."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = ("http" if self.web else "dicom") + ("s" if self.tls else "")
        user = "" if self.web else f"{quote(self.aet, safe='')}@"
        return f"{scheme}://{user}{host}:{self.port}{self.path}"

    def __str__(self) -> str:
        return self.url


def parse_address(text: str) -> Address:
    """Read the URL of an archive.

    Raises
    ------
    InputError
        If it has neither form, or contains a password or a token. The message never repeats
        what stands before an ``@`` or after a ``?``.
    """
    text = text.strip()
    shown = re.sub(r"//[^/]*@", "//...@", text).partition("?")[0].partition("#")[0]
    wrong = InputError(f"'{shown}' is not the URL of an archive", fix=_FORMS)
    if not text.isprintable() or " " in text:
        raise wrong
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise wrong from None
    host = parts.hostname or ""
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https", "dicom", "dicoms") or not _HOST.fullmatch(host) or port == 0:
        raise wrong
    web = scheme.startswith("http")
    if parts.password is not None or (web and parts.username is not None):
        raise InputError(
            "the URL contains a user name or a password, which others could read",
            fix="Leave it out, and run: napari-spatial-ar archive login URL",
        )
    if parts.query or parts.fragment:
        raise InputError(
            "the URL of an archive has nothing after a '?' or '#'",
            fix="Leave it out; a token is given with: napari-spatial-ar archive login URL",
        )
    tls = scheme.endswith("s")
    if web:
        path = parts.path.rstrip("/")
        return Address(True, tls, host, port or _WEB_PORTS[scheme], path)
    if not parts.username or parts.path.strip("/"):
        raise wrong
    aet = check_ae_title(unquote(parts.username), "archive's")
    return Address(False, tls, host, port or (_DICOM_TLS_PORT if tls else _DICOM_PORT), aet=aet)
