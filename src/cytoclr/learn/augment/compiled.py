"""Views by numba: each crop from its bytes to its views while it is in the processor's cache.

What is done is what `reference` does. A plane (one channel) is a flat array; every inner loop goes over neighbours in
it with plain float32 arithmetic, so that the compiler makes it a loop over vectors: for that, arrays are sliced before
a loop (an index that may be negative is not vectorised) and made one by one (rows of another array count as strided).
Threads are Python's own, as the compiled code needs no interpreter: they neither outlive a fork nor suffer a second
caller, as numba's pools would.
"""

import contextlib
import math
import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cytoclr.learn.augment.nuisances import Nuisances, weigh_bend_points
from cytoclr.learn.minibatch import Minibatch, Transform

__all__ = ["make_views"]

#: Fewer cells than these are not worth a thread of their own.
CELLS_PER_THREAD = 8
#: Views that take more are given large pages.
LARGE_BYTES = 1 << 23


def make_views(
    minibatch: Minibatch,
    drawn: Sequence[Nuisances],
    tape: Float[Tensor, " number"],
    *,
    view_size_px: int,
    transform: Transform,
) -> Float[Tensor, "view cell channel view_height view_width"]:
    """Make one or more views of each raw crop, on as many threads as torch may use.

    Parameters
    ----------
    minibatch
        Raw crops in the computer's memory.
    drawn
        What was drawn for each view.
    tape
        Normal numbers.
    view_size_px
        Height and width of a view.
    transform
        Of intensities 0..1, before anything else.
    """
    num_cells, num_channels, height, width = minibatch.crops.shape
    views = _allocate(len(drawn), num_cells, num_channels, view_size_px, view_size_px)
    planes = minibatch.crops.contiguous().numpy().reshape(num_cells, num_channels, height * width)
    low = minibatch.low.to(torch.float32).contiguous()
    scale = 1.0 / (minibatch.high.to(torch.float32) - low)
    others = (
        width,
        low.numpy(),
        scale.contiguous().numpy(),
        transform == "sqrt",
        weigh_bend_points(view_size_px),
        *(np.stack([vars(each)[name] for each in drawn]) for name in vars(drawn[0])),
        tape.numpy(),
        views.numpy().reshape(len(drawn), num_cells, num_channels, view_size_px**2),
        view_size_px,
    )

    def make_some(start: int, stop: int) -> None:
        # bytes are widened, a minute part of the work, so that all is compiled once and not for each type
        _make_some(start, stop, planes[start:stop].astype(np.uint16, copy=False), *others)

    _share_out(num_cells, make_some)
    return views


def _allocate(*shape: int) -> Float[Tensor, "view cell channel view_height view_width"]:
    """Make room for views, of large pages where the system lends them.

    Room for a large minibatch is given back to the system each time, and got anew: page by page of 4 KB, that took a
    third of all the time (256 crops of 96x96x3, glibc).
    """
    num_bytes = math.prod(shape) * torch.float32.itemsize
    if num_bytes < LARGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


def _share_out(num_cells: int, work: Callable[[int, int], None]) -> None:
    """Do the work on as many threads as torch may use, each on neighbouring cells."""
    num_threads = max(1, min(torch.get_num_threads(), num_cells // CELLS_PER_THREAD))
    if num_threads == 1:
        work(0, num_cells)
        return
    bounds = [number * num_cells // num_threads for number in range(num_threads + 1)]
    with ThreadPoolExecutor(num_threads) as threads:
        for _ in threads.map(work, bounds[:-1], bounds[1:]):
            pass


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, kept for later runs; sums may be reordered, but what is not finite stays so."""
    options: dict[str, Any] = {
        "nogil": True,
        "fastmath": {"contract", "reassoc", "nsz", "arcp"},
        "error_model": "numpy",
    }
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # there is nowhere to keep it: compiled anew in each run
        return numba.njit(**options)(function)  # type: ignore[no-any-return]


F32, I32 = np.float32, np.int32


@_compile
@no_type_check
def _scale(plane, low, scale, take_root, prepared):
    for i in range(plane.size):
        prepared[i] = min(max((F32(plane[i]) - low) * scale, F32(0.0)), F32(1.0))
    if take_root:
        for i in range(plane.size):
            prepared[i] = np.sqrt(prepared[i])


@_compile
@no_type_check
def _find_places(matrix, bend, weights, width, height, size, x_bend, places, x_shares, y_shares):
    """Where each pixel of a view lies in the crop: the place left above it, and its shares of the next."""
    by_x, by_y, x_start = matrix[0, 0], matrix[0, 1], matrix[0, 2] + F32(0.5)
    v_by_x, v_by_y, y_start = matrix[1, 0], matrix[1, 1], matrix[1, 2] + F32(0.5)
    twice_width, twice_height = F32(2 * width), F32(2 * height)
    last_x, last_y, half, zero = F32(width - 1), F32(height - 1), F32(0.5), F32(0.0)
    x_most, y_most, stride = F32(max(width - 2, 0)), F32(max(height - 2, 0)), F32(width)
    x_bends, y_bends = x_bend[0], x_bend[1]
    is_bent = bend.size > 0
    for row in range(size):
        begin = row * size
        place, x_share, y_share = (
            places[begin : begin + size],
            x_shares[begin : begin + size],
            y_shares[begin : begin + size],
        )
        x_row, y_row = by_y * F32(row) + x_start, v_by_y * F32(row) + y_start
        if is_bent:
            _bend_row(bend, weights, row, x_bends, y_bends)
        for i in range(size):
            along = F32(I32(i))
            # mirrored at the crop's borders, once: a view reaches less than a side beyond them
            x = abs(by_x * along + x_row + x_bends[i])
            y = abs(v_by_x * along + y_row + y_bends[i])
            x = min(max(min(x, twice_width - x) - half, zero), last_x)
            y = min(max(min(y, twice_height - y) - half, zero), last_y)
            left, above = min(np.floor(x), x_most), min(np.floor(y), y_most)
            place[i] = np.uint32(I32(above * stride + left))
            x_share[i], y_share[i] = x - left, y - above


@_compile
@no_type_check
def _bend_row(bend, weights, row, x_bends, y_bends):
    for axis, bends in enumerate((x_bends, y_bends)):
        bends[:] = F32(0.0)
        for column_point in range(bend.shape[2]):
            of_row = F32(0.0)
            for row_point in range(bend.shape[1]):
                of_row += weights[row, row_point] * bend[axis, row_point, column_point]
            for i in range(bends.size):
                bends[i] += weights[i, column_point] * of_row


@_compile
@no_type_check
def _sample(prepared, width, places, x_shares, y_shares, plane):
    right, below, right_below = prepared[1:], prepared[width:], prepared[width + 1 :]
    for i in range(plane.size):
        place = places[i]
        above_left, below_left = prepared[place], below[place]
        above = above_left + x_shares[i] * (right[place] - above_left)
        under = below_left + x_shares[i] * (right_below[place] - below_left)
        plane[i] = above + y_shares[i] * (under - above)


@_compile
@no_type_check
def _blur(plane, size, taps, wide, blurred):
    """Blur down and then along each row; a border's pixels stand for those beyond it.

    The first three neighbours are taken in one pass, as most kernels have no more.
    """
    radius = taps.size - 1
    tap_0, tap_1, tap_2, tap_3 = taps[0], taps[1], taps[2], taps[3]
    down = wide[radius : radius + size]
    left_1, left_2, left_3 = wide[radius - 1 :], wide[radius - 2 :], wide[radius - 3 :]
    right_1, right_2, right_3 = wide[radius + 1 :], wide[radius + 2 :], wide[radius + 3 :]
    for row in range(size):
        here = plane[row * size : row * size + size]
        up_1, down_1 = plane[max(row - 1, 0) * size :], plane[min(row + 1, size - 1) * size :]
        up_2, down_2 = plane[max(row - 2, 0) * size :], plane[min(row + 2, size - 1) * size :]
        up_3, down_3 = plane[max(row - 3, 0) * size :], plane[min(row + 3, size - 1) * size :]
        for i in range(size):
            near = tap_0 * here[i] + tap_1 * (up_1[i] + down_1[i])
            down[i] = near + tap_2 * (up_2[i] + down_2[i]) + tap_3 * (up_3[i] + down_3[i])
        for distance in range(4, radius + 1):
            above, under = plane[max(row - distance, 0) * size :], plane[min(row + distance, size - 1) * size :]
            for i in range(size):
                down[i] += taps[distance] * (above[i] + under[i])
        for i in range(radius):
            wide[i], wide[radius + size + i] = down[0], down[size - 1]
        out = blurred[row * size : row * size + size]
        for i in range(size):
            near = tap_0 * down[i] + tap_1 * (left_1[i] + right_1[i])
            out[i] = near + tap_2 * (left_2[i] + right_2[i]) + tap_3 * (left_3[i] + right_3[i])
        for distance in range(4, radius + 1):
            left, right = wide[radius - distance :], wide[radius + distance :]
            for i in range(size):
                out[i] += taps[distance] * (left[i] + right[i])


@_compile
@no_type_check
def _raise(plane, exponent):
    """Raise to a power, by polynomials of log2 and exp2 to 5e-6: a library's function would not be vectorised.

    A number is 2^whole x (1 + part), the part within sqrt(1/2) - 1 .. sqrt(2) - 1: bits of a float say so.
    """
    for i in range(plane.size):
        bits = np.float32(plane[i]).view(np.int32)
        whole = I32(I32(bits - I32(0x3F3504F3)) >> I32(23))
        part = np.int32(bits - I32(whole << I32(23))).view(np.float32) - F32(1.0)
        log = F32(0.2956336) + part * (F32(-0.26950628) + part * F32(0.17212874))
        log = F32(-0.721364) + part * (F32(0.48062915) + part * (F32(-0.35935065) + part * log))
        log = F32(whole) + part * (F32(1.4426965) + part * log)
        power = max(log * exponent, F32(-126.0)) + F32(127.0)
        whole = I32(power)
        part = power - F32(whole)
        exp = F32(0.24162132) + part * (F32(0.051717736) + part * F32(0.013683983))
        exp = F32(1.0000036) + part * (F32(0.69296956) + part * exp)
        plane[i] = exp * np.int32(whole << I32(23)).view(np.float32)


@_compile
@no_type_check
def _light(plane, row_light, column_light):
    size = column_light.size
    for row in range(size):
        here, light = plane[row * size : row * size + size], row_light[row]
        for i in range(size):
            here[i] *= light * column_light[i]


@_compile
@no_type_check
def _empty(plane, size, hole):
    for row in range(hole[0], hole[1]):
        plane[row * size + hole[2] : row * size + hole[3]] = F32(0.0)


@_compile
@no_type_check
def _finish(plane, gain, offset, view):
    for i in range(view.size):
        view[i] = plane[i] * gain + offset


@_compile
@no_type_check
def _finish_with_noise(plane, gain, offset, noise_sd, noise, view):
    for i in range(view.size):
        view[i] = plane[i] * gain + offset + noise_sd * noise[i]


@_compile
@no_type_check
def _finish_with_photons(plane, gain, offset, variance, photon_variance, noise, view):
    for i in range(view.size):
        value = plane[i] * gain + offset
        view[i] = value + np.sqrt(variance + photon_variance * max(value, F32(0.0))) * noise[i]


@_compile
@no_type_check
def _make_some(
    start, stop, crops, width, low, scale, take_root, weights,
    matrices, bends, blurs, gammas, gains, offsets, row_lights, column_lights, holes,
    variances, photon_variances, noise_starts, tape, views, size,
):  # fmt: skip
    """Make the views of cells `start` to `stop`, whose crops these are; an array without length is a nuisance off."""
    num_channels, num_pixels = crops.shape[1:]
    num_taps = blurs.shape[2]
    prepared = np.zeros((num_channels, num_pixels + width + 1), np.float32)  # what is right of and below the last
    bent = np.zeros((2, size), np.float32)
    places = np.empty(size * size, np.uint32)
    x_shares, y_shares = np.empty(size * size, np.float32), np.empty(size * size, np.float32)
    sampled, blurred = np.empty(size * size, np.float32), np.empty(size * size, np.float32)
    wide = np.empty(size + 2 * num_taps, np.float32)
    for cell in range(start, stop):
        for channel in range(num_channels):
            _scale(crops[cell - start, channel], low[cell, channel], scale[cell, channel], take_root, prepared[channel])
        for number in range(views.shape[0]):
            _find_places(
                matrices[number, cell], bends[number, cell], weights, width, num_pixels // width, size, bent,
                places, x_shares, y_shares,
            )  # fmt: skip
            taps = blurs[number, cell]
            for channel in range(num_channels):
                plane, view = sampled, views[number, cell, channel]
                _sample(prepared[channel], width, places, x_shares, y_shares, plane)
                if num_taps > 1 and taps[1] > F32(0.0):
                    _blur(plane, size, taps, wide, blurred)
                    plane = blurred
                if gammas.shape[2] and gammas[number, cell, channel] != F32(1.0):
                    _raise(plane, gammas[number, cell, channel])
                if row_lights.shape[2]:
                    _light(plane, row_lights[number, cell], column_lights[number, cell])
                if holes.shape[2]:
                    _empty(plane, size, holes[number, cell])
                gain, offset = gains[number, cell, channel], offsets[number, cell, channel]
                if variances.shape[2] == 0:
                    _finish(plane, gain, offset, view)
                    continue
                variance, photon_variance = variances[number, cell, 0], photon_variances[number, cell, 0]
                noise = tape[noise_starts[number, cell, channel] :]
                if photon_variance == F32(0.0):
                    _finish_with_noise(plane, gain, offset, np.sqrt(variance), noise, view)
                else:
                    _finish_with_photons(plane, gain, offset, variance, photon_variance, noise, view)
