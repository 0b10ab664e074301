"""How an archive may be reached: our AE title, certificates, time-outs and credentials."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_spatial_ar.archive.address import Address
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.json_text import parse_json

__all__ = [
    "PASSWORD_VARIABLE",
    "TOKEN_VARIABLE",
    "USER_VARIABLE",
    "Access",
    "Credentials",
    "credentials_for",
    "forget_credentials",
    "keep_credentials",
    "need_extra",
]

#: Environment variables for use without a keyring, such as in a batch.
TOKEN_VARIABLE = "NAPARI_SPATIAL_AR_ARCHIVE_TOKEN"
USER_VARIABLE = "NAPARI_SPATIAL_AR_ARCHIVE_USER"
PASSWORD_VARIABLE = "NAPARI_SPATIAL_AR_ARCHIVE_PASSWORD"
_SERVICE = "napari-spatial-ar"
_NO_KEYRING = (
    f"Give them in the environment: {TOKEN_VARIABLE}, or {USER_VARIABLE} and {PASSWORD_VARIABLE}"
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A bearer token, or a user's name and password; never in a repr."""

    token: str = field(default="", repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot stand in the header of a request (`InputError`)."""
        if not (self.token + self.user + self.password).isprintable() or ":" in self.user:
            raise InputError("the token, user name or password has characters that none may have")
        if not self.token and not self.user:
            raise InputError("there is neither a token nor a user name")


@dataclass(frozen=True, slots=True)
class Access:
    """How an archive may be reached.

    Parameters
    ----------
    aet : str
        Our AE title, by which a DIMSE archive knows us.
    ca_file : Path, optional
        Certificates (PEM) that the archive's must be signed by, in place of the usual ones.
    certificate, key : Path, optional
        Our own certificate and its key (PEM), if the archive asks for one.
    credentials : Credentials, optional
        For DICOMweb; by default those of `credentials_for`.
    timeout : float
        Seconds without a sign of the archive after which a request has failed.
    receive_port : int
        Port on which we receive images if the archive moves them to us (C-MOVE).
    retries : int
        How often what failed for a passing reason is tried again.
    parallel : int
        Requests at the same time.
    """

    aet: str = "NSAR"
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    credentials: Credentials | None = None
    timeout: float = 30.0
    receive_port: int = 11112
    retries: int = 3
    parallel: int = 4

    def __post_init__(self) -> None:
        """Look for the files (`InputError`)."""
        for path in (self.ca_file, self.certificate, self.key):
            if path is not None and not path.is_file():
                raise InputError("there is no such file of certificates", path=path)
        if self.key is not None and self.certificate is None:
            raise InputError("a key belongs to a certificate", fix="Give --cert as well")

    def tls(self) -> ssl.SSLContext:
        """TLS of a client: the archive's name and certificate are checked.

        Raises
        ------
        InputError
            If a file has no certificates or keys.
        """
        context = ssl.create_default_context(cafile=self._checked(self.ca_file))
        if self.certificate is not None:
            load_certificate(context, self.certificate, self.key)
        return context

    def server_tls(self) -> ssl.SSLContext:
        """TLS of a server, with our certificate; with ``ca_file``, clients need one of it too.

        Raises
        ------
        InputError
            If there is no certificate, or a file has none.
        """
        if self.certificate is None:
            raise InputError("a server needs a certificate for TLS", fix="Give --cert and --key")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        load_certificate(context, self.certificate, self.key)
        if self.ca_file is not None:
            context.load_verify_locations(self._checked(self.ca_file))
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    @staticmethod
    def _checked(path: Path | None) -> Path | None:
        if path is not None:
            try:
                ssl.create_default_context(cafile=path)
            except (ssl.SSLError, OSError):
                raise InputError(
                    "has no certificates", path=path, fix="Give a PEM file of the authority"
                ) from None
        return path


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Load a certificate and its key into a context (`InputError` if they do not fit)."""

    def no_password() -> str:
        raise InputError("the key is encrypted", path=key or certificate, fix="Decrypt it first")

    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except (ssl.SSLError, OSError):
        raise InputError(
            "has no certificate, or its key is not beside it", path=certificate, fix="Give --key"
        ) from None


def need_extra(error: ImportError) -> InputError:
    """Return the sentence for a missing package of the extra ``pacs``."""
    return InputError(
        f"archives need {error.name or 'packages'}, which is not installed",
        fix="Run: pip install 'napari-spatial-ar[pacs]'",
    )


# ---------------------------------------------------------------- credentials


def credentials_for(address: Address) -> Credentials | None:
    """Credentials for an archive: of the environment, else of the keyring; None without any."""
    environment = _of_environment(os.environ)
    if environment is not None:
        return environment
    try:
        text = _keyring().get_password(_SERVICE, address.url)
    except InputError:
        return None
    try:
        return Credentials(**parse_json(text, dict[str, str])) if text else None
    except (TypeError, ValueError, InputError):
        return None


def _of_environment(variables: Mapping[str, str]) -> Credentials | None:
    token, user = variables.get(TOKEN_VARIABLE, ""), variables.get(USER_VARIABLE, "")
    if token:
        return Credentials(token=token)
    return Credentials(user=user, password=variables.get(PASSWORD_VARIABLE, "")) if user else None


def keep_credentials(address: Address, credentials: Credentials) -> None:
    """Keep credentials for an archive in the system's keyring.

    Raises
    ------
    InputError
        If it has none, or refuses.
    """
    if not address.web:
        raise InputError(
            "DIMSE archives have no passwords or tokens",
            fix="They know us by our AE title (--aet), or by a certificate (--cert)",
        )
    kept = {"token": credentials.token, "user": credentials.user, "password": credentials.password}
    _keyring().set_password(_SERVICE, address.url, json.dumps(kept))


def forget_credentials(address: Address) -> bool:
    """Remove an archive's credentials from the keyring; whether there were any."""
    try:
        found = _keyring()
        if found.get_password(_SERVICE, address.url) is None:
            return False
        found.delete_password(_SERVICE, address.url)
    except InputError:
        return False
    return True


def _keyring() -> _Keyring:
    try:
        import keyring
    except ImportError as error:
        raise need_extra(error) from error
    return _Keyring(keyring)


@dataclass(frozen=True, slots=True)
class _Keyring:
    """The system's keyring, whose errors are sentences without what they were about."""

    module: Any

    def get_password(self, service: str, name: str) -> str | None:
        found: str | None = self._asked("get_password", service, name)
        return found

    def set_password(self, service: str, name: str, value: str) -> None:
        self._asked("set_password", service, name, value)

    def delete_password(self, service: str, name: str) -> None:
        self._asked("delete_password", service, name)

    def _asked(self, method: str, *arguments: str) -> Any:
        try:
            return getattr(self.module, method)(*arguments)
        except Exception:  # noqa: BLE001 - backends of any kind; their errors may quote secrets
            raise InputError(
                "this machine has no keyring that can be used", fix=_NO_KEYRING
            ) from None
