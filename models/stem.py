"""The first layer of an STFT branch, differentiated by hand: bins normalised, then a 7x7 convolution (spec §4).

Written as layers, a sixth of a training step on a CPU goes into the gradient of a spectrogram that nobody asks for.

Shapes: B clips, F frequency bins, N frames, C channels, R and K rows and columns of the output.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

KERNEL, STRIDE = 7, 2
TAPS = 4  # rows and columns of the kernel on each of the four sub-grids, one tap of zeros included
CLIPS_AT_ONCE = 8  # in the backward pass: what is unfolded for them fits the caches


def normalised_stem(spec_BFN: Tensor, norm: nn.BatchNorm1d, weight: Tensor, bias_C: Tensor | None = None) -> Tensor:
    """`conv2d(norm(spec)[:, None], weight, bias, stride=2)` with weight (C, 1, 7, 7): (B, F, N) -> (B, C, R, K).

    A spectrogram is data: it gets no gradient, and no bias does. In training the norm's running statistics are brought
    up to date.
    """
    if spec_BFN.is_cuda:
        return stride_two_stem(norm(spec_BFN), weight, bias_C)
    mean_F, variance_F = _statistics(spec_BFN, norm)
    out: Tensor = _NormalisedStem.apply(
        spec_BFN, mean_F, (variance_F + norm.eps).rsqrt(), norm.weight, norm.bias, weight, bias_C
    )
    return out


@torch.no_grad()
def _statistics(spec_BFN: Tensor, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Mean and variance (F,) of each bin: of this batch in training, else the running ones."""
    running_mean, running_variance, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
    assert running_mean is not None
    assert running_variance is not None
    assert batches is not None
    assert norm.momentum is not None
    if not norm.training:
        return running_mean, running_variance
    number = spec_BFN.shape[0] * spec_BFN.shape[2]
    mean_F = spec_BFN.sum(dim=2).sum(dim=0) / number
    square_F = (spec_BFN - mean_F[:, None]).square().sum(dim=2).sum(dim=0)  # `var` takes ten times as long
    running_mean.lerp_(mean_F, norm.momentum)
    running_variance.lerp_(square_F / (number - 1), norm.momentum)
    batches += 1
    return mean_F, square_F / number


class _NormalisedStem(torch.autograd.Function):
    """Gradients of the weight and of the norm's scale and shift, from the weight's gradient of every output row.

    Each row r of the output sees bins 2r to 2r + 6. With P_r the gradient of the kernel as if row r were all there is
    and the input the normalised spectrogram x, and S_r the sum of the output's gradient in that row, scale g and
    shift b of the bins give: dW_i = sum_r g_(2r+i) P_ri + b_(2r+i) S_r, dg_f = sum over 2r + i = f of <W_i, P_ri>,
    db_f the same with S_r. That is one matrix product a row instead of a transposed convolution.
    """

    @staticmethod
    def forward(
        ctx: Any,
        spec_BFN: Tensor,
        mean_F: Tensor,
        scale_F: Tensor,
        gamma_F: Tensor,
        beta_F: Tensor,
        weight: Tensor,
        bias_C: Tensor | None,
    ) -> Tensor:
        dtype = matrix_dtype(spec_BFN)
        normal_BFN = (spec_BFN - mean_F[:, None]).mul_(scale_F[:, None]).to(dtype)
        grids = _sub_grids(normal_BFN)  # rounded before it is rearranged: half the bytes
        ctx.save_for_backward(grids, gamma_F, beta_F, weight)
        # Scales and shifts repeated for a whole row: broadcast over four channels they take five times as long.
        rows = [_sub_grids(part_F.to(dtype)[None, :, None].expand_as(normal_BFN[:1])) for part_F in (beta_F, gamma_F)]
        return _convolve(torch.addcmul(rows[0], grids, rows[1]), weight, bias_C)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grids, gamma_F, beta_F, weight = ctx.saved_tensors
        by_row, sums = grad.new_zeros((), dtype=torch.float32), grad.new_zeros((), dtype=torch.float32)
        for clips, towards in zip(grids.split(CLIPS_AT_ONCE), grad.split(CLIPS_AT_ONCE), strict=True):
            towards_RPC = towards.permute(2, 0, 3, 1).flatten(1, 2)
            by_row = by_row + torch.bmm(towards_RPC.transpose(1, 2), _patches(clips)).float()
            sums = sums + towards_RPC.sum(dim=1).float()
        by_row = by_row.unflatten(2, (TAPS, TAPS, 2, 2)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
        by_row = by_row[:, :, :KERNEL, :KERNEL]
        bins = torch.arange(len(gamma_F)).unfold(0, KERNEL, STRIDE)  # (R, 7): which bin a row's kernel row lies on
        kernel = weight[:, 0]
        weight_grad = torch.einsum("ri,rcij->cij", gamma_F[bins], by_row)
        weight_grad += torch.einsum("ri,rc->ci", beta_F[bins], sums)[:, :, None]
        gamma_RI = torch.einsum("cij,rcij->ri", kernel, by_row)
        beta_RI = torch.einsum("cij,rc->ri", kernel, sums)
        gamma_grad, beta_grad = (
            torch.zeros_like(gamma_F).index_add_(0, bins.flatten(), part.flatten()) for part in (gamma_RI, beta_RI)
        )
        return None, None, None, gamma_grad, beta_grad, weight_grad[:, None], None


def matrix_dtype(x: Tensor) -> torch.dtype:
    """What autocast rounds `x` to for a matrix product; rounded before it is rearranged, half the bytes move."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def stride_two_stem(spec_BFN: Tensor, weight: Tensor, bias_C: Tensor | None = None) -> Tensor:
    """The unpadded 7x7 convolution of one channel with stride 2: (B, F, N), (C, 1, 7, 7) -> (B, C, R, K).

    Computed as a 4x4 convolution over the four (even, odd) x (even, odd) sub-grids, which CPUs do 2.5 times faster.
    """
    return _convolve(_sub_grids(spec_BFN), weight, bias_C)


def _convolve(grids: Tensor, weight: Tensor, bias_C: Tensor | None) -> Tensor:
    kernel = fn.pad(weight, (0, 1, 0, 1)).reshape(-1, TAPS, 2, TAPS, 2).permute(0, 2, 4, 1, 3).flatten(1, 2)
    return fn.conv2d(grids, kernel.contiguous(memory_format=torch.channels_last), bias_C)


def _sub_grids(spec_BFN: Tensor) -> Tensor:
    """(B, F, N) -> (B, 4, R + 3, K + 3), channels last: the bins and frames of even and odd number."""
    rows, columns = ((size - KERNEL) // STRIDE + TAPS for size in spec_BFN.shape[1:])
    spec = fn.pad(spec_BFN, (0, 1, 0, 1))[:, : 2 * rows, : 2 * columns]
    grids = spec.reshape(-1, rows, 2, columns, 2).permute(0, 2, 4, 1, 3).flatten(1, 2)
    return grids.contiguous(memory_format=torch.channels_last)


def _patches(grids: Tensor) -> Tensor:
    """What each position of the output sees, row by row: (B, 4, R + 3, K + 3) -> (R, B * K, 4 * 4 * 4).

    The last axis is (tap row, tap column, sub-grid): the columns of a row lie side by side in memory.
    """
    row = grids.permute(2, 0, 3, 1).flatten(2).unfold(2, TAPS * grids.shape[1], grids.shape[1])
    columns = row.flatten(1, 2)  # (R + 3, B * K, tap column x sub-grid)
    rows = len(columns) - TAPS + 1
    return torch.cat([columns[first : first + rows] for first in range(TAPS)], dim=2)
