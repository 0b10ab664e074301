"""The nearest row: bfloat16 may say where to look, and never changes what is found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.backbones import devices
from napari_spatial_ar.normative.backbones.devices import bfloat16_products, native_bfloat16
from napari_spatial_ar.normative.detectors import nearest
from napari_spatial_ar.normative.detectors.nearest import largest_products

CPU = torch.device("cpu")
QUERIES, WIDTH = 70, 48


def unit(count: int, seed: int, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, width, generator=generator))


def crowd(count: int, spread: float, seed: int) -> Tensor:
    """Unit-length rows so near to the queries that bfloat16 cannot tell which is the nearest."""
    near = unit(QUERIES, 0)[torch.arange(count) % QUERIES]
    return functional.normalize(near + spread * unit(count, seed))


def truth(queries: Tensor, rows: Tensor) -> Tensor:
    return (queries.double() @ rows.double().T).amax(dim=1)


BANKS = {
    "anywhere": unit(2000, 1),
    "hard to tell apart": crowd(2000, 0.03, 2),
    "the same but for float32's last digits": crowd(2000, 1e-4, 3),
    "all the same": unit(1, 4).expand(900, -1),
    "one part": unit(100, 5),
    "of many lengths": unit(1500, 6) * torch.linspace(0.01, 30, 1500)[:, None],
    "pointing away": -crowd(1000, 0.03, 7),
    "with zeros": torch.cat([torch.zeros(300, WIDTH), unit(300, 8)]),
}


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
@pytest.mark.parametrize("rows", BANKS.values(), ids=BANKS)
def test_it_is_the_largest_whatever_the_processor_has(rows: Tensor, half: bool) -> None:
    queries, rows = unit(QUERIES, 0), rows.half() if half else rows.float()
    found = largest_products(queries, rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(),
        truth(queries, rows),
        rtol=0,
        atol=1e-6 * float(rows.float().norm(dim=1).max()),
    )


def test_bfloat16_alone_would_take_other_rows() -> None:
    """The banks above are hard enough: what bfloat16 takes for the nearest is another row."""
    queries, rows = unit(QUERIES, 0), BANKS["hard to tell apart"].half()
    taken = bfloat16_products(queries.bfloat16(), rows.bfloat16()).argmax(dim=1)
    exact = (queries * rows[taken].float()).sum(dim=1)
    assert (truth(queries, rows) - exact).max() > 1e-4


def test_few_parts_are_multiplied_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VARIABLE, "on")
    queries, rows = unit(QUERIES, 0), torch.cat([unit(20_000, 1), crowd(256, 0.3, 2)]).half()
    multiplied = []
    in_part = nearest._in_part

    def counted(some: Tensor, part: Tensor) -> Tensor:
        multiplied.append(len(some) * len(part))
        return in_part(some, part)

    monkeypatch.setattr(nearest, "_in_part", counted)
    torch.testing.assert_close(
        largest_products(queries, rows).double(), truth(queries, rows), rtol=0, atol=1e-6
    )
    assert sum(multiplied) < len(queries) * len(rows) / 20


@pytest.mark.parametrize("hardware", [True, False])
@pytest.mark.parametrize("width", [3, 48, 1024])
def test_products_in_bfloat16_are_within_the_bound(
    width: int, hardware: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound of the module's head, which numbers of one sign come nearest to."""
    if hardware and not devices._in_hardware(CPU):
        pytest.skip("this processor has no bfloat16")
    monkeypatch.setattr(devices, "_in_hardware", lambda device: hardware)
    # Just below the middle between two bfloat16 numbers: each factor is off by nearly 2^-8.
    worst = torch.full((1, width), 1 + 2**-8 - 2**-12)
    for left, right in ((unit(50, 0, width), unit(60, 1, width).half()), (worst, worst.half())):
        products = bfloat16_products(left.bfloat16(), right.bfloat16()).double()
        off = (products - left.double() @ right.double().T).abs()
        sizes = left.norm(dim=1)[:, None] * right.float().norm(dim=1)
        assert (off <= (3.1 * 2**-8 + 2.1 * width * 2**-24) * sizes).all()
    assert off.max() > 1.5 * 2**-8 * sizes.max()


def test_a_processor_without_bfloat16_can_stand_for_one_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(devices.VARIABLE, raising=False)
    monkeypatch.setattr(devices, "_in_hardware", lambda device: False)
    assert not native_bfloat16(CPU)
    monkeypatch.setenv(devices.VARIABLE, "on")
    assert native_bfloat16(CPU)
    assert not native_bfloat16(torch.device("mps")), "it is said of the processor alone"
    queries, rows = unit(QUERIES, 0), BANKS["hard to tell apart"].half()
    found = largest_products(queries, rows)
    assert (found.double() - truth(queries, rows)).abs().max() < 1e-6
    monkeypatch.setattr(devices, "_in_hardware", lambda device: True)
    monkeypatch.setenv(devices.VARIABLE, "off")
    assert not native_bfloat16(CPU)
    monkeypatch.setenv(devices.VARIABLE, "perhaps")
    with pytest.raises(InputError, match="BFLOAT16 is 'on' or 'off', not 'perhaps'"):
        native_bfloat16(CPU)
