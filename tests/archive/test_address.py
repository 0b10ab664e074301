"""URLs of archives: two forms, one spelling, and no secrets in them or in their errors."""

from __future__ import annotations

import pytest

from napari_spatial_ar.archive.address import Address, parse_address
from napari_spatial_ar.errors import InputError


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        (
            "http://pacs:8042/dicom-web/",
            Address(True, False, "pacs", 8042, "/dicom-web"),
            "http://pacs:8042/dicom-web",
        ),
        (
            "HTTPS://pacs.example/rs",
            Address(True, True, "pacs.example", 443, "/rs"),
            "https://pacs.example:443/rs",
        ),
        (
            "dicom://ORTHANC@127.0.0.1:4242",
            Address(False, False, "127.0.0.1", 4242, aet="ORTHANC"),
            "dicom://ORTHANC@127.0.0.1:4242",
        ),
        (
            "dicoms://MAIN%20PACS@[::1]",
            Address(False, True, "::1", 2762, aet="MAIN PACS"),
            "dicoms://MAIN%20PACS@[::1]:2762",
        ),
        ("dicom://A@pacs", Address(False, False, "pacs", 104, aet="A"), "dicom://A@pacs:104"),
    ],
)
def test_the_forms(text: str, address: Address, url: str) -> None:
    assert parse_address(text) == address
    assert str(address) == url
    assert parse_address(url) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "pacs", "ftp://pacs/dicom-web", "http://", "http:///dicom-web", "dicom://pacs:104"),
        *("http://pacs:port/rs", "http://pacs:99999/rs", "http://pacs:0/rs", "http://[::1"),
        *("dicom://A@pacs/study", "http://pa cs/rs", "http://pacs/a\nb", "http://päcs{}/"),
        *("dicom://MORE_THAN_SIXTEEN@pacs", "dicom://A%5CB@pacs", "dicom://@pacs", "//A@pacs"),
    ],
)
def test_what_is_neither(text: str) -> None:
    with pytest.raises(InputError, match="archive"):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://jane:hunter2@pacs/dicom-web",
        "https://hunter2@pacs/dicom-web",
        "https://pacs/dicom-web?token=hunter2",
        "https://pacs/dicom-web#hunter2",
        "dicom://A:hunter2@pacs",
        "ftp://jane:hunter2@pacs",
        "nonsense://x:hunter2@pacs:port",
        "http://jane:hunter2@pacs:port/rs",
    ],
)
def test_secrets_in_a_url_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_address(text)
    assert "hunter2" not in str(caught.value)
