"""The spatial autoregressive network: predicts each embedding from those before it.

Equation numbers are those of Erdil et al., "Spatial Autoregressive Modeling of DINOv3
Embeddings for Unsupervised Anomaly Detection": (2) p(F) = prod p(F_ij | F_<ij) in raster order,
each conditional a Gaussian N(mu_ij, I).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.detectors.von_mises_fisher import concentration, log_normalizer

__all__ = ["Context", "Likelihood", "MaskedConv2d", "Sees", "SpatialAR"]

Context = Literal["causal", "bidirectional"]
Likelihood = Literal["gaussian", "von-mises-fisher"]
# Which neighbours a convolution sees: those before the centre in raster order ("A"), the same plus
# the centre ("B"), all but the centre ("hollow"), all ("open").
Sees = Literal["A", "B", "hollow", "open"]


# Channels for which the normaliser of directions is accurate.
_LEAST_DIRECTIONS = 8
# Concentration per channel at which training begins, and the share by which it follows each batch.
_LEAST_KAPPA, _KAPPA_RATE = 0.1, 0.1


class MaskedConv2d(nn.Module):
    """A dilated convolution that sees, and computes, only part of its neighbourhood.

    A causal layer never sees the rows below its centre, so only the upper half of the kernel
    exists: (kernel // 2 + 1) x kernel weights instead of kernel x kernel.

    Parameters
    ----------
    channels_in, channels_out : int
        Input and output channels.
    kernel : int
        Side of the square kernel before masking, an odd number.
    dilation : int
        Distance between neighbours, in patches.
    sees : {"A", "B", "hollow", "open"}
        Which neighbours it sees.
    """

    mask: Tensor

    def __init__(
        self, channels_in: int, channels_out: int, *, kernel: int, dilation: int, sees: Sees
    ) -> None:
        super().__init__()
        # Initialised like the full square kernel, as in the published code.
        whole = nn.Conv2d(channels_in, channels_out, kernel)
        half = kernel // 2
        rows = half + 1 if sees in ("A", "B") else kernel
        self.dilation = dilation
        self.weight = nn.Parameter(whole.weight.detach()[:, :, :rows].clone())
        self.bias = nn.Parameter(_bias_of(whole).detach().clone())
        reach = half * dilation
        # (left, right, top, bottom): preserves the size.
        self.padding = (reach, reach, reach, (rows - 1 - half) * dilation)
        # Number of weights of a causal layer in the row of the centre; 0 for other layers.
        self._in_row = half + (sees == "B") if sees in ("A", "B") else 0
        mask = torch.ones(rows, kernel)
        if sees in ("A", "B"):
            mask[half, half + (sees == "B") :] = 0
        elif sees == "hollow":
            mask[half, half] = 0
        self.register_buffer("mask", mask, persistent=False)
        self.weight.data.mul_(mask)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, C_in, Hp, Wp) -> (B, C_out, Hp, Wp)."""
        # On a GPU kernel launches dominate, and one convolution is fewer than two.
        if self._in_row and grid.device.type == "cpu":
            return self._rows_above(grid).add_(self._row_of_centre(grid))
        return functional.conv2d(
            functional.pad(grid, self.padding),
            self.weight * self.mask,
            self.bias,
            dilation=self.dilation,
        )

    def _rows_above(self, grid: Tensor) -> Tensor:
        """Contribution of the rows above the centre, and the bias."""
        height, reach = grid.shape[2], self.padding[2]
        seen = max(0, height - self.dilation)
        padding = (reach, reach, height - self.dilation + reach - seen, 0)
        above = functional.pad(grid[:, :, :seen], padding)
        weight = self.weight[:, :, :-1]
        return functional.conv2d(above, weight, self.bias, dilation=self.dilation)

    def _row_of_centre(self, grid: Tensor) -> Tensor:
        """Contribution of the row of the centre, with the centre ("B") or without it ("A")."""
        width, reach = grid.shape[3], self.padding[0]
        hidden = (self.weight.shape[3] // 2 + 1 - self._in_row) * self.dilation
        seen = max(0, width - hidden)
        before = functional.pad(grid[..., :seen], (width - hidden + reach - seen, 0))
        weight = self.weight[:, :, -1:, : self._in_row]
        return functional.conv2d(before, weight, dilation=self.dilation)


def _bias_of(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None  # nn.Conv2d has one by default
    return convolution.bias


class SpatialAR(nn.Module):
    """Predict the mean of each patch embedding from its context.

    Parameters
    ----------
    channels : int
        D, channels of an embedding.
    hidden : int
        Channels of the layers between.
    layers : int
        Number of convolutions, at least 2.
    kernel : int
        Odd kernel side.
    dilation : int or sequence of int
        Dilation of every layer: 1 is the paper's "standard" model, 4 its "dilated" one. A sequence
        gives one per layer, starting with the layer that sees the embeddings.
    context : {"causal", "bidirectional"}
        Causal: each position sees only positions before it in raster order. Bidirectional: the
        first layer hides only the centre and the rest are plain convolutions, so from the second
        layer on the centre leaks back through its neighbours. That is the paper's variant.
    likelihood : {"gaussian", "von-mises-fisher"}
        Conditional of an embedding: the paper's Gaussian N(mu, I), or of its direction alone, von
        Mises-Fisher around the direction of mu with one concentration ``kappa`` for all patches,
        fitted by maximum likelihood along with the weights.

    Raises
    ------
    InputError
        If a parameter is out of range, or the number of dilations is not that of the layers.
    """

    kappa: Tensor

    def __init__(
        self,
        channels: int,
        hidden: int = 256,
        layers: int = 5,
        kernel: int = 3,
        dilation: int | Sequence[int] = 4,
        context: Context = "causal",
        likelihood: Likelihood = "gaussian",
    ) -> None:
        super().__init__()
        if context not in get_args(Context):
            raise InputError(f"context must be 'causal' or 'bidirectional', not {context!r}")
        if likelihood not in get_args(Likelihood):
            raise InputError(
                f"likelihood must be 'gaussian' or 'von-mises-fisher', not {likelihood!r}"
            )
        if likelihood == "von-mises-fisher" and channels < _LEAST_DIRECTIONS:
            raise InputError(
                f"directions need at least {_LEAST_DIRECTIONS} channels, not {channels}",
                fix="Choose the likelihood 'gaussian'",
            )
        if kernel % 2 == 0 or kernel < 3:
            raise InputError(f"the kernel side must be odd and at least 3, not {kernel}")
        dilations = list(dilation) if isinstance(dilation, Sequence) else [dilation] * layers
        if not all(isinstance(each, int) for each in dilations):
            raise InputError(f"a dilation must be a whole number: {dilation!r}")
        if min(channels, hidden, *dilations) < 1 or layers < 2:
            raise InputError(
                "channels, hidden and dilation must be at least 1 and layers at least 2, not "
                f"{channels}, {hidden}, {dilation} and {layers}"
            )
        if len(dilations) != layers:
            raise InputError(
                f"there are {len(dilations)} dilations ({'-'.join(map(str, dilations))}) for "
                f"{layers} convolutions",
                fix="Give one dilation per convolution, or one for all",
            )
        self.channels = channels
        #: The arguments, from which an equal network can be built.
        self.settings: dict[str, Any] = {
            "channels": channels,
            "hidden": hidden,
            "layers": layers,
            "kernel": kernel,
            # A single number stays a number, so that files are the same as those of versions
            # that allowed only one.
            "dilation": dilations if isinstance(dilation, Sequence) else dilation,
            "context": context,
            # Files of the paper's model are the same as before there was a choice.
            **({} if likelihood == "gaussian" else {"likelihood": likelihood}),
        }
        self.likelihood = likelihood
        if likelihood == "von-mises-fisher":
            self.register_buffer("kappa", torch.tensor(_LEAST_KAPPA * channels))
        first: Sees = "A" if context == "causal" else "hollow"
        rest: Sees = "B" if context == "causal" else "open"
        widths = [channels, *[hidden] * (layers - 1), channels]
        modules: list[nn.Module] = []
        for n in range(layers):
            if n:
                modules.append(nn.ReLU())
            modules.append(
                MaskedConv2d(
                    widths[n],
                    widths[n + 1],
                    kernel=kernel,
                    dilation=dilations[n],
                    sees=rest if n else first,
                )
            )
        self.net = nn.Sequential(*modules)

    def forward(self, grid: Tensor) -> Tensor:
        """Predicted means mu.

        Parameters
        ----------
        grid : (B, D, Hp, Wp) float
            Patch embeddings F; NaN where a patch was skipped, which the network sees as it sees
            what is beyond the edge.

        Returns
        -------
        (B, D, Hp, Wp), same dtype (bfloat16 under autocast)
        """
        # masked_fill would change the memory layout, and with it the last bit of convolutions.
        mu: Tensor = self.net(torch.where(grid[:, :1].isnan(), 0.0, grid))
        return mu

    def nll(self, grid: Tensor) -> Tensor:
        """Conditional negative log-likelihood A_ij of each patch, in nats.

        Gaussian: ``A_ij = D/2 log(2 pi) + |F_ij - mu_ij|^2 / 2``. Von Mises-Fisher, of the
        direction: ``A_ij = -log C_D(kappa) - kappa cos(F_ij, mu_ij)``, which may be negative.

        Parameters
        ----------
        grid : (B, D, Hp, Wp) float
            Patch embeddings F.

        Returns
        -------
        (B, Hp, Wp) float32
            NaN where a patch was skipped.
        """
        missing = grid[:, :1].isnan()
        if self.likelihood == "von-mises-fisher":
            deviance = self.kappa * (1 - self._cosines(grid))
            return (deviance + self.least_nll).masked_fill(missing[:, 0], torch.nan)
        # Filled before it is squared: a gradient through NaN is NaN.
        error = torch.where(missing, 0.0, grid.float() - self(grid).float())
        nll: Tensor = self.channels / 2 * math.log(2 * math.pi) + error.square().sum(dim=1) / 2
        return nll.masked_fill(missing[:, 0], torch.nan)

    @property
    def least_nll(self) -> float:
        """NLL of an embedding that is exactly as predicted, in nats."""
        if self.likelihood == "gaussian":
            return self.channels / 2 * math.log(2 * math.pi)
        kappa = float(self.kappa)
        return -log_normalizer(self.channels, kappa) - kappa

    def loss(self, grid: Tensor) -> Tensor:
        """Mean NLL of the patches that were not skipped, in nats, to be minimised.

        Von Mises-Fisher: at the concentration of greatest likelihood for these very patches, which
        ``kappa`` follows.

        Parameters
        ----------
        grid : (B, D, Hp, Wp) float
            Patch embeddings F.
        """
        if self.likelihood == "gaussian":
            nll = self.nll(grid)
            return nll[~nll.isnan()].mean()
        cosine = self._cosines(grid)[~grid[:, 0].isnan()].mean()
        # At a concentration of 0 nothing would be learned.
        kappa = max(concentration(self.channels, cosine.item()), _LEAST_KAPPA * self.channels)
        with torch.no_grad():
            self.kappa.lerp_(torch.full_like(self.kappa, kappa), _KAPPA_RATE)
        return -log_normalizer(self.channels, kappa) - kappa * cosine

    def _cosines(self, grid: Tensor) -> Tensor:
        """Cosine between each embedding and its prediction, (B, Hp, Wp) float32; 0 if skipped."""
        target = torch.where(grid[:, :1].isnan(), 0.0, grid.float())
        return functional.cosine_similarity(target, self(grid).float(), dim=1)
