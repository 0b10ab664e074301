"""Archives saved by name: their file has no secrets, the keyring has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from napari_spatial_ar.archive import access
from napari_spatial_ar.archive.access import (
    Access,
    Credentials,
    credentials_for,
    forget_credentials,
    keep_credentials,
)
from napari_spatial_ar.archive.address import parse_address
from napari_spatial_ar.archive.saved import (
    SavedArchive,
    address_of,
    remove_archive,
    save_archive,
    saved_archives,
)
from napari_spatial_ar.errors import InputError, NameTakenError
from napari_spatial_ar.paths import archives_file
from tests.archive.conftest import MemoryKeyring

URL = "https://pacs.example:443/dicom-web"


def test_a_name_stands_for_url_and_settings(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    saved = SavedArchive(url=URL, aet="WS1", ca_file=str(tmp_path / "ca.pem"), timeout=7)
    save_archive("main", saved)
    save_archive("other", SavedArchive(url="dicom://PACS@host"))
    assert list(saved_archives()) == ["main", "other"]
    address, how = address_of("main")
    assert address.url == URL
    assert how == Access("WS1", ca_file=tmp_path / "ca.pem", timeout=7)
    assert address_of("other")[0].url == "dicom://PACS@host:104"
    assert address_of(URL) == (parse_address(URL), Access())
    with pytest.raises(NameTakenError):
        save_archive("main", saved)
    save_archive("main", SavedArchive(url=URL), overwrite=True)
    assert saved_archives()["main"].aet == "NSAR"


@pytest.mark.parametrize("name", ["", " a", "../a", "http://a", "a/b", "n" * 65, "a\n"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InputError, match="not a name for an archive"):
        save_archive(name, SavedArchive(url=URL))


def test_what_is_neither_name_nor_url() -> None:
    with pytest.raises(InputError, match="neither the URL of an archive nor the name"):
        address_of("nowhere")
    with pytest.raises(InputError, match="neither the URL"):
        remove_archive("nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"archives": {"a": {"url": 5}}}'])
def test_a_damaged_list_is_a_sentence(text: str) -> None:
    archives_file().parent.mkdir(parents=True)
    archives_file().write_text(text)
    with pytest.raises(InputError, match=r"archives\.json: the list of archives cannot be read"):
        saved_archives()


def test_a_list_of_a_later_version_still_loads() -> None:
    archives_file().parent.mkdir(parents=True)
    later = {"version": 2, "more": 1, "archives": {"a": {"url": URL, "colour": "red"}}}
    archives_file().write_text(json.dumps(later))
    assert saved_archives() == {"a": SavedArchive(url=URL)}


def test_secrets_are_in_the_keyring_only(kept_secrets: MemoryKeyring) -> None:
    save_archive("main", SavedArchive(url=URL))
    address = parse_address(URL)
    assert credentials_for(address) is None
    keep_credentials(address, Credentials(user="jane", password="hunter2"))
    assert credentials_for(address) == Credentials(user="jane", password="hunter2")
    assert list(kept_secrets.kept) == [("napari-spatial-ar", URL)]
    for path in archives_file().parent.rglob("*"):
        assert "hunter2" not in path.read_text()
    remove_archive("main")
    assert kept_secrets.kept == {}
    assert not forget_credentials(address)


def test_a_url_that_another_name_has_keeps_its_secrets(kept_secrets: MemoryKeyring) -> None:
    save_archive("one", SavedArchive(url=URL))
    save_archive("two", SavedArchive(url=URL))
    keep_credentials(parse_address(URL), Credentials(token="hunter2"))
    remove_archive("one")
    assert kept_secrets.kept


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    address = parse_address(URL)
    keep_credentials(address, Credentials(token="kept"))
    monkeypatch.setenv(access.USER_VARIABLE, "jane")
    monkeypatch.setenv(access.PASSWORD_VARIABLE, "hunter2")
    assert credentials_for(address) == Credentials(user="jane", password="hunter2")
    monkeypatch.setenv(access.TOKEN_VARIABLE, "t")
    assert credentials_for(address) == Credentials(token="t")


def test_a_machine_without_a_keyring(
    kept_secrets: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*arguments: str) -> None:
        raise RuntimeError("cannot store hunter2")

    monkeypatch.setattr(kept_secrets, "set_password", locked)
    monkeypatch.setattr(kept_secrets, "get_password", locked)
    address = parse_address(URL)
    assert credentials_for(address) is None
    with pytest.raises(InputError, match="has no keyring that can be used") as caught:
        keep_credentials(address, Credentials(token="hunter2"))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_credentials_that_would_break_a_header() -> None:
    for wrong in ({"token": "a\r\nX: y"}, {"user": "a:b", "password": "c"}, {}):
        with pytest.raises(InputError):
            Credentials(**wrong)
    with pytest.raises(InputError, match="no passwords or tokens"):
        keep_credentials(parse_address("dicom://A@host"), Credentials(token="x"))
