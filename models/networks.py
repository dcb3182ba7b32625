"""The two branch networks: 1-D convolutions on a spectrum, a small ResNet on a spectrogram (spec §4).

Convolutions and linear layers have no bias and nothing but the squeeze-and-excitation gates is bounded: both would let
a network map every clip to one point (paper §2.1, reference [12]). Batch normalisation keeps its learned shift, as in
the public code of [9].

Shapes: B clips, F frequency bins, N frames, C channels, D embedding size.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from models.branches import DFT_CONVOLUTIONS, dft_frames, min_dft_bins, valid_length
from models.stem import KERNEL, STRIDE, matrix_dtype, normalised_stem

SQUEEZE_RATIO = 16
RESNET_CHANNELS = (16, 32, 64, 128)
DFT_HIDDEN_LAYERS = 5


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in (0, 1) computed from the channels' means: (B, C, ...) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, max(1, channels // SQUEEZE_RATIO), bias=False)
        self.excite = nn.Linear(max(1, channels // SQUEEZE_RATIO), channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean_BC = x.mean(dim=tuple(range(2, x.ndim)))
        gate_BC = torch.sigmoid(self.excite(fn.relu(self.squeeze(mean_BC))))
        return x * gate_BC.view(*gate_BC.shape, *[1] * (x.ndim - 2))

    def add_gated(self, shortcut: Tensor, x: Tensor) -> Tensor:
        """`shortcut + self(x)` for maps (B, C, F, N), in as few passes over memory as there can be.

        The shortcut is such maps, or constants (B, C).
        """
        total: Tensor = _GatedSum.apply(shortcut, x, self.squeeze.weight, self.excite.weight)
        return total


class _GatedSum(torch.autograd.Function):
    """The residual sum with its gate, differentiated by hand: autograd makes and adds three maps where one does."""

    @staticmethod
    def forward(ctx: Any, shortcut: Tensor, x: Tensor, squeeze: Tensor, excite: Tensor) -> Tensor:
        mean_BC = x.mean(dim=(2, 3), dtype=torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            hidden_BH = fn.relu(mean_BC @ squeeze.T)
            gate_BC = torch.sigmoid(hidden_BH @ excite.T)
        ctx.save_for_backward(x, squeeze, excite, mean_BC, hidden_BH, gate_BC)
        return _scale_and_add(shortcut, x, gate_BC)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, squeeze, excite, mean_BC, hidden_BH, gate_BC = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)  # the maximum over time hands down another layout
        logit_BC = (grad * x).sum(dim=(2, 3), dtype=torch.float32) * gate_BC * (1 - gate_BC)
        hidden_grad_BH = (logit_BC @ excite) * (hidden_BH > 0)
        mean_grad_BC = hidden_grad_BH @ squeeze / (x.shape[2] * x.shape[3])
        x_grad = _scale_and_add(mean_grad_BC, grad, gate_BC)
        return grad, x_grad, hidden_grad_BH.T @ mean_BC, logit_BC.T @ hidden_BH


def _scale_and_add(summand: Tensor, x: Tensor, gate_BC: Tensor) -> Tensor:
    """`summand + gate * x` for maps x (B, C, F, N); the summand is such a map too, or (B, C).

    In the order of memory (channels last), with the gate repeated for a whole row: loops over 16 channels are slow.
    """
    frames = x.shape[3]

    def row(y: Tensor) -> Tensor:
        if y.ndim == 2:
            return y.to(x.dtype).repeat(1, frames)[:, None]
        return y.permute(0, 2, 3, 1).flatten(2)

    total = torch.addcmul(row(summand), row(x), row(gate_BC))
    return total.unflatten(2, (frames, -1)).permute(0, 3, 1, 2)


class StridedConv1d(nn.Conv1d):
    """An unpadded convolution whose kernel is a whole number of strides long, as one matrix product: (B, C, N).

    Its maps lie in memory with the channels last, which is why the kernel's taps come before them.
    """

    def forward(self, x_BCN: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        shifts, positions = kernel // stride, valid_length(x_BCN.shape[2], kernel, stride)
        x_BNC = x_BCN.to(matrix_dtype(x_BCN)).transpose(1, 2)
        blocks = x_BNC[:, : (positions + shifts - 1) * stride].unflatten(1, (-1, stride)).flatten(2)
        windows = torch.cat([blocks[:, first : first + positions] for first in range(shifts)], dim=2)
        return fn.linear(windows, self.weight.transpose(1, 2).flatten(1)).transpose(1, 2)


class StridedGate(SqueezeExcitation):
    """The gate of maps (B, C, N) whose channels lie last in memory, differentiated by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return self.add_gated(x.new_zeros(x.shape[:2]), x.unsqueeze(2)).squeeze(2)


class DftBranch(nn.Module):
    """g1: the embedding of an amplitude spectrum: (B, F) -> (B, D).

    `bins` is F = T // 2 + 1; the last linear layers have a fixed size, so every clip must have the same length.
    """

    convolution: type[nn.Conv1d] = StridedConv1d
    gate: type[SqueezeExcitation] = StridedGate

    def __init__(self, *, bins: int, embedding_dim: int) -> None:
        super().__init__()
        length = dft_frames(bins)
        if length < 1:
            raise ValueError(f"{bins} frequency bins are too few; at least {min_dft_bins()} are needed")
        stages = [
            nn.Sequential(self.convolution(inputs, 128, kernel, stride, bias=False), nn.ReLU(), self.gate(128))
            for inputs, kernel, stride in DFT_CONVOLUTIONS
        ]
        self.convolutions = nn.Sequential(*stages)
        sizes = [128 * length] + [128] * DFT_HIDDEN_LAYERS
        hidden = [
            nn.Sequential(nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU())
            for before, after in pairwise(sizes)
        ]
        self.head = nn.Sequential(*hidden, nn.Linear(128, embedding_dim, bias=False))

    def forward(self, spectrum_BF: Tensor) -> Tensor:
        maps_BCN = self.convolutions(spectrum_BF.unsqueeze(1))
        embed_BD: Tensor = self.head(maps_BCN.flatten(1))
        return embed_BD


def has_short_rows(channels: int, stride: int) -> bool:
    """Whether a block with so many output channels is faster on this CPU with the shorter side of its maps last.

    Else convolutions of short rows take up to six times as long. With tile registers (AMX) oneDNN's bfloat16 kernels of
    stride 2 are wrong where a row of output has one pixel, so such blocks never have them there.
    """
    able = torch.cpu.get_capabilities()
    if able.get("amx_tile", False):
        return channels == RESNET_CHANNELS[0] and stride == 1
    return able["architecture"] == "x86_64" and not able["avx512_f"] and channels <= RESNET_CHANNELS[1]


class ResidualBlock(nn.Module):
    """Pre-activation residual block with a gate: (B, C_in, F, N) -> (B, C_out, F', N') (spec §4).

    On a CPU the longer side of a map comes last in memory, whichever it is, but where short rows are faster.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.short_rows = has_short_rows(outputs, stride)
        self.norm_in = nn.BatchNorm2d(inputs)
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm_mid = nn.BatchNorm2d(outputs)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.gate = SqueezeExcitation(outputs)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.MaxPool2d(3, stride, 1), nn.Conv2d(inputs, outputs, 1, bias=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        turned = not x.is_cuda and (x.shape[2] > x.shape[3]) != self.short_rows
        x = self.norm_in(_turn(x, turned).contiguous(memory_format=torch.channels_last))
        weight, shift_C = folded(self.conv_1.weight, self.norm_mid)
        out = fn.conv2d(fn.relu(x), _turn(weight, turned), shift_C, self.conv_1.stride, 1)
        out = fn.relu(self.norm_mid(out) if shift_C is None else out, inplace=True)
        out = fn.conv2d(out, _turn(self.conv_2.weight, turned), None, 1, 1)
        return _turn(self.gate.add_gated(self.shortcut(x), out), turned)


def folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor | None]:
    """A convolution's kernels and shifts (C,) that do what its own kernels and the normalisation after it do.

    Where gradients are wanted, or statistics of the batch, the kernels as they are and no shifts.
    """
    if norm.training or torch.is_grad_enabled():
        return weight, None
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale_C = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return weight * scale_C[:, None, None, None], norm.bias - norm.running_mean * scale_C


def _turn(x: Tensor, turned: bool) -> Tensor:
    """A view of maps or kernels (..., F, N) with frequency and time exchanged, or the same."""
    return x.transpose(2, 3) if turned else x


class StftBranch(nn.Module):
    """g2, g3, g_attr: the embedding of an amplitude spectrogram: (B, F, N) -> (B, D), for any number of frames N.

    `bins` is F. Time is reduced by a maximum, frequency is kept and flattened.
    """

    block: type[ResidualBlock] = ResidualBlock

    def __init__(self, *, bins: int, embedding_dim: int) -> None:
        super().__init__()
        first = RESNET_CHANNELS[0]
        self.norm_bins = nn.BatchNorm1d(bins)
        self.stem = nn.Conv2d(1, first, KERNEL, STRIDE, bias=False)
        self.norm_stem = nn.BatchNorm2d(first)
        blocks: list[nn.Module] = []
        rows = valid_length(valid_length(bins, 7, 2), 3, 2)
        if rows < 1:
            raise ValueError(f"{bins} frequency bins are too few for the 7x7 stem; at least 11 are needed")
        for before, after in pairwise((first, *RESNET_CHANNELS)):
            stride = 1 if after == first else 2
            blocks += [self.block(before, after, stride), self.block(after, after, 1)]
            rows = (rows - 1) // stride + 1
        self.blocks = nn.Sequential(*blocks)
        self.norm_out = nn.BatchNorm1d(RESNET_CHANNELS[-1] * rows)
        self.project = nn.Linear(RESNET_CHANNELS[-1] * rows, embedding_dim, bias=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, spec_BFN: Tensor) -> Tensor:
        weight, shift_C = folded(self.stem.weight, self.norm_stem)
        x = normalised_stem(spec_BFN, self.norm_bins, weight, shift_C)
        x = self.norm_stem(x) if shift_C is None else x
        x = fn.relu(fn.max_pool2d(x, 3, 2), inplace=True)  # the same as ReLU first, on a quarter
        maps_BCF = self.blocks(x).amax(dim=3)
        embed_BD: Tensor = self.project(self.norm_out(maps_BCF.flatten(1)))
        return embed_BD
