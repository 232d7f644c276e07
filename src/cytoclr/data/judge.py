"""What the images, locations and nuclei of a sample of sites say of a screen."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from cytoclr.config import CropSettings
from cytoclr.data.findings import NUM_EXAMPLES, Finding, name_sites
from cytoclr.data.locations import Locations
from cytoclr.data.sampling import Glance, Plane
from cytoclr.errors import CytoclrError
from cytoclr.tables import SITE

__all__ = ["judge_centres", "judge_images", "judge_locations", "judge_nuclei", "judge_sizes"]

#: Shares from which on something is worth a word: saturated pixels, crops that cross the border.
SATURATED, CROSSING = 0.01, 0.25
#: Nuclei are as told if they are within these parts of it; likewise the pixels' size.
SAME_DIAMETER, SAME_PIXEL = (0.67, 1.5), (0.97, 1.03)
#: A crop shows a cell if it is between so many nuclei wide.
CROP_IN_NUCLEI = (1.5, 5.0)
_DARK = "Was the light on, and the channel taken? Leave such plates or channels out."


def judge_images(glances: Sequence[Glance], *, bit_depth: int | None, pixel_size_um: float | None) -> Iterator[Finding]:
    """Judge pixels: unreadable, of several types, constant, saturated, copied, deeper or larger than was told."""
    yield from _judge_errors(glances)
    seen = [glance for glance in glances if glance.planes]
    types = Counter(glance.dtype for glance in seen)
    if len(types) > 1:
        first = {glance.dtype: f"{glance.dtype} {glance.place}" for glance in reversed(seen)}
        yield Finding(
            "IMG006",
            "error",
            f"plates differ in type: {', '.join(sorted(types))}. Expected 8 or 16 bit in all of them.",
            tuple(sorted(first.values())),
            len(types),
            "Convert the images of one kind, or leave their plates out (screen.plates).",
        )
    yield from _judge_planes(seen, lambda plane: plane.is_constant, "IMG007", "are constant", _DARK)
    yield from _judge_planes(
        seen,
        lambda plane: plane.saturated > SATURATED and not plane.is_constant,
        "IMG008",
        f"have more than {SATURATED:.0%} of their pixels at the camera's largest value",
        "What is brighter cannot be told apart there. Leave such crops out: crop.drop: [saturated].",
    )
    yield from _judge_contents(seen)
    yield from _judge_depth(seen, bit_depth)
    yield from _judge_pixel_size(seen, pixel_size_um)


def _judge_errors(glances: Sequence[Glance]) -> Iterator[Finding]:
    by_code: dict[str, list[tuple[str, CytoclrError]]] = {}
    for glance in glances:
        for error in glance.errors:
            by_code.setdefault(error.code or "IMG002", []).append((glance.place, error))
    for code, found in by_code.items():
        first = found[0][1]
        more = tuple(f"{place}: {error}" for place, error in found[1:NUM_EXAMPLES])
        yield Finding(code, "error", str(first), more, len(found), error=first)


def _judge_planes(
    glances: Sequence[Glance], is_wrong: Callable[[Plane], bool], code: str, what: str, fix: str
) -> Iterator[Finding]:
    total = sum(len(glance.planes) for glance in glances)
    wrong = [
        f"{glance.place} {channel}" for glance in glances for channel, plane in glance.planes.items() if is_wrong(plane)
    ]
    if wrong:
        message = f"{len(wrong):,} of {total:,} images {what}."
        yield Finding(code, "warning", message, tuple(wrong[:NUM_EXAMPLES]), len(wrong), fix)


def _judge_contents(glances: Sequence[Glance]) -> Iterator[Finding]:
    places: dict[bytes, list[str]] = {}
    for glance in glances:
        for channel, plane in glance.planes.items():
            if not plane.is_constant:
                places.setdefault(plane.digest, []).append(f"{glance.place} {channel}")
    same = [found for found in places.values() if len(found) > 1]
    if same:
        yield Finding(
            "IMG009",
            "warning",
            f"{sum(map(len, same)):,} images share their content with another, pixel by pixel.",
            tuple(" = ".join(found[:3]) for found in same[:NUM_EXAMPLES]),
            sum(map(len, same)),
            "Were files copied under another name? Keep one of each.",
        )


def _judge_depth(glances: Sequence[Glance], bit_depth: int | None) -> Iterator[Finding]:
    if bit_depth is None:
        return
    too_deep = [f"{glance.place}: {glance.dtype}" for glance in glances if glance.dtype == "uint8" and bit_depth > 8]
    if too_deep:
        yield Finding(
            "IMG010",
            "error",
            f"{len(too_deep):,} of {len(glances):,} images hold 8 bit, but screen.bit_depth is {bit_depth}.",
            tuple(too_deep[:NUM_EXAMPLES]),
            len(too_deep),
            "Set screen.bit_depth to 8, or leave it out.",
        )
    most = 2**bit_depth - 1
    above = [
        (plane.largest, f"{glance.place} {channel}: {plane.largest:,}")
        for glance in glances
        for channel, plane in glance.planes.items()
        if plane.largest > most
    ]
    if above:
        needed = max(largest for largest, _ in above).bit_length()
        yield Finding(
            "IMG010",
            "error",
            f"{len(above):,} images have pixels above {most:,}, the largest value of screen.bit_depth: {bit_depth}.",
            tuple(place for _, place in above[:NUM_EXAMPLES]),
            len(above),
            f"Set screen.bit_depth to {needed} or more, or to null.",
        )


def _judge_pixel_size(glances: Sequence[Glance], told: float | None) -> Iterator[Finding]:
    if told is None:
        return
    low, high = (told * part for part in SAME_PIXEL)
    other = [
        (glance.pixel_size_um, glance.place)
        for glance in glances
        if glance.pixel_size_um is not None and not low <= glance.pixel_size_um <= high
    ]
    if other:
        size = Counter(f"{found:.4g}" for found, _ in other).most_common(1)[0][0]
        yield Finding(
            "IMG013",
            "warning",
            f"screen.pixel_size_um is {told:g}, but {len(other):,} of {len(glances):,} images say {size} µm.",
            tuple(f"{place}: {found:.4g} µm" for found, place in other[:NUM_EXAMPLES]),
            len(other),
            f"Set screen.pixel_size_um to {size}, or leave it as it is if the images are wrong (binned or resized).",
        )


def judge_sizes(
    shapes: Sequence[tuple[str, tuple[int, int]]], crop: CropSettings, *, size_px: int
) -> Iterator[Finding]:
    """Judge the sizes of fields, each with the name of its site: several of them, or smaller than a crop."""
    counts = Counter(shape for _, shape in shapes)
    if len(counts) > 1:
        first = {shape: f"{shape[0]} x {shape[1]} (rows, columns): {place}" for place, shape in reversed(shapes)}
        yield Finding(
            "IMG005",
            "error" if crop.illumination == "plate" else "warning",
            f"fields are of {len(counts)} sizes. Expected one: of another camera, binning or magnification?",
            tuple(first[shape] for shape, _ in counts.most_common(NUM_EXAMPLES)),
            len(counts),
            "Leave the plates of one kind out (screen.plates), unless their pixels are of one size in µm.",
        )
    small = [place for place, shape in shapes if min(shape) < size_px]
    if small:
        smallest = min(min(shape) for _, shape in shapes)
        yield Finding(
            "IMG011",
            "error" if len(small) == len(shapes) and crop.border == "drop" else "warning",
            f"{len(small):,} of {len(shapes):,} fields are smaller than a crop of {size_px} px: {smallest} px.",
            tuple(small[:NUM_EXAMPLES]),
            len(small),
            f"Set crop.size_px to less than {smallest}.",
        )


def judge_centres(glances: Sequence[Glance], *, channel: str) -> Iterator[Finding]:
    """Judge whether there is anything where cells are said to be."""
    num_centres, num_empty = (sum(getattr(glance, name) for glance in glances) for name in ("num_centres", "num_empty"))
    if num_empty > num_centres / 2:
        worst = sorted(glances, key=lambda glance: -glance.num_empty)[:NUM_EXAMPLES]
        yield Finding(
            "LOC012",
            "warning",
            f"at {num_empty:,} of {num_centres:,} centres that were looked at, {channel} shows nothing.",
            tuple(f"{glance.place}: {glance.num_empty} of {glance.num_centres}" for glance in worst),
            num_empty,
            "Are x and y exchanged, are they in µm, are sites counted from 0? Look at a field with its centres: "
            "crop.overlays draws some.",
        )


def judge_locations(
    rows: pd.DataFrame, locations: Locations, shapes: Mapping[str, tuple[int, int]], size_px: int, *, pads: bool
) -> Iterator[Finding]:
    """Judge where cells are said to be: sites without any, centres outside their field, crops across its border.

    `shapes` are the sizes (rows, columns) of the sites that were looked at; if they are all one, it is every site's.
    """
    sites = list(rows[SITE].itertuples(index=False, name=None))
    numbers = np.array([len(locations.of(site).x) for site in sites])
    without = rows[numbers == 0]
    if len(without):
        yield Finding(
            "LOC003",
            "warning",
            f"{len(without):,} of {len(rows):,} sites have no locations, and will have no crops.",
            name_sites(without),
            len(without),
            "Were their images segmented, and are plates, wells and sites named alike?",
        )
    known = set(shapes.values())
    if not known:
        return
    if len(known) == 1:  # then all fields are taken to be so
        one = next(iter(known))
        of_sites = dict.fromkeys(sites, one)
    else:
        of_sites = {site: shapes[name] for site in sites if (name := f"{site[0]} {site[1]} s{site[2]}") in shapes}
    yield from _judge_centres(_Centres.gather(locations, of_sites), size_px, pads=pads)


@dataclass(frozen=True)
class _Centres:
    """Centres of cells, each with the size of its field (px), and the sites' names where they begin."""

    x: Float[np.ndarray, " cell"]
    y: Float[np.ndarray, " cell"]
    rows: Float[np.ndarray, " cell"]
    columns: Float[np.ndarray, " cell"]
    names: tuple[str, ...]
    numbers: tuple[int, ...]

    @classmethod
    def gather(cls, locations: Locations, shapes: Mapping[tuple[str, str, int], tuple[int, int]]) -> "_Centres":
        """Put the centres of some sites together."""
        parts = [locations.of(site) for site in shapes]
        numbers = [len(part.x) for part in parts]
        sizes = np.array(list(shapes.values()), dtype=np.float64)
        return cls(
            np.concatenate([part.x for part in parts]),
            np.concatenate([part.y for part in parts]),
            np.repeat(sizes[:, 0], numbers),
            np.repeat(sizes[:, 1], numbers),
            tuple(f"{plate} {well} s{site}" for plate, well, site in shapes),
            tuple(numbers),
        )

    def name(self, wrong: Bool[np.ndarray, " cell"]) -> tuple[str, ...]:
        """Name the sites of the first cells that are wrong."""
        cells = np.flatnonzero(wrong)[:NUM_EXAMPLES]
        sites = np.searchsorted(np.cumsum(self.numbers), cells, side="right")
        return tuple(
            f"{self.names[site]}: x {self.x[cell]:g}, y {self.y[cell]:g}"
            for site, cell in zip(sites, cells, strict=True)
        )


def _judge_centres(places: _Centres, size_px: int, *, pads: bool) -> Iterator[Finding]:
    x, y, rows, columns = places.x, places.y, places.rows, places.columns
    if not len(x):
        return
    outside = (x < -0.5) | (y < -0.5) | (x >= columns - 0.5) | (y >= rows - 0.5)
    exchanged = (y < -0.5) | (x < -0.5) | (y >= columns - 0.5) | (x >= rows - 0.5)
    first = int(outside.argmax())
    size = f"{rows[first]:g} x {columns[first]:g}"
    if outside.mean() > 0.01 and exchanged.mean() < outside.mean() / 10:
        yield Finding(
            "LOC005",
            "error",
            f"{outside.sum():,} of {len(x):,} centres lie outside their field ({size} px, rows x columns); were "
            f"x and y exchanged, {exchanged.sum():,} would. Expected x as the column.",
            places.name(outside),
            int(outside.sum()),
            "Exchange the two columns of the locations.",
        )
    elif outside.any():
        yield Finding(
            "LOC004",
            "error" if outside.mean() > 0.5 else "warning",
            f"{outside.sum():,} of {len(x):,} centres lie outside their field ({size} px, rows x columns), and "
            "have no crops.",
            places.name(outside),
            int(outside.sum()),
            "Are they in pixels, and of these images?",
        )
    # as cut_crops: the first pixel of the crop, and the one behind its last
    left, top = (np.floor(values + 0.5) - size_px // 2 for values in (x, y))
    crossing = ~outside & ((left < 0) | (top < 0) | (left + size_px > columns) | (top + size_px > rows))
    inside = int((~outside).sum())
    if inside and crossing.sum() > CROSSING * inside:
        yield Finding(
            "LOC006",
            "warning",
            f"{crossing.sum():,} of {inside:,} crops of {size_px} px cross the border of their field"
            f"{', and are filled up.' if pads else ', and are left out.'}",
            places.name(crossing),
            int(crossing.sum()),
            "Set crop.size_px to less" + ("." if pads else ", or crop.border to pad."),
        )


def judge_nuclei(glances: Sequence[Glance], *, channel: str, diameter_px: float, size_px: int) -> Iterator[Finding]:
    """Judge the nuclei that were looked for with a diameter: their number and width, and what of them a crop shows."""
    looked = [glance for glance in glances if glance.num_nuclei is not None]
    empty = [glance.place for glance in looked if glance.num_nuclei == 0]
    if looked and len(empty) > len(looked) / 2:
        yield Finding(
            "LOC008",
            "error" if len(empty) == len(looked) else "warning",
            f"in {len(empty):,} of {len(looked):,} fields no nucleus is found (channel {channel}, "
            f"diameter {diameter_px:g} px).",
            tuple(empty[:NUM_EXAMPLES]),
            len(empty),
            "Set crop.nuclei_channel and crop.nucleus_diameter_px, or name locations or masks.",
        )
    measured = [glance.diameter_px for glance in looked if glance.diameter_px is not None]
    if not measured:
        return
    found = float(np.median(measured))
    if not SAME_DIAMETER[0] <= found / diameter_px <= SAME_DIAMETER[1]:
        yield Finding(
            "LOC009",
            "warning",
            f"nuclei in channel {channel} are {found:.0f} px wide, crop.nucleus_diameter_px is {diameter_px:g}.",
            count=len(measured),
            fix=f"Set crop.nucleus_diameter_px to {found:.0f}, if {channel} is the nuclei's channel.",
        )
    if not CROP_IN_NUCLEI[0] <= size_px / found <= CROP_IN_NUCLEI[1]:
        yield Finding(
            "LOC011",
            "note",
            f"a crop of {size_px} px is {size_px / found:.1f} nuclei wide ({found:.0f} px).",
            count=len(measured),
            fix=f"A cell and little around it are some {8 * round(2.5 * found / 8)} px: crop.size_px.",
        )
