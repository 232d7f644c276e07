"""What of a screen is asked for: its channels, its plates, its sites that are complete."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cytoclr.errors import DataError, list_some
from cytoclr.tables import SITE, sort_naturally

__all__ = ["choose_channels", "refuse_unless_skipped", "select_plates"]


def choose_channels(known: Sequence[str], channels: Mapping[str, str] | None, source: str) -> dict[str, str]:
    """Tell which of the known channels stands for each name that is asked for; None: all, under their own.

    A name is looked for as it is written, else in any case.

    Raises
    ------
    DataError
        A channel asked for is not there, or two names are the same one (NAME004); two of the known have one name
        (NAME003).
    """
    twice = sorted({name for name in known if list(known).count(name) > 1})
    if twice:
        raise DataError(
            f"{source}: {list_some(twice)} stands for several channels. Expected a name of its own for each.",
            code="NAME003",
        )
    if channels is None:
        return {name: name for name in known}
    chosen: dict[str, str] = {}
    for name, wanted in channels.items():
        same = [token for token in known if token == wanted] or [
            token for token in known if token.lower() == wanted.lower()
        ]
        if len(same) != 1:
            raise DataError(
                f"{source}: no channel {wanted}, asked for as {name}. It has {list_some(known, 12)}.", code="NAME004"
            )
        if same[0] in chosen.values():
            raise DataError(
                f"{source}: {same[0]} is asked for under two names. Expected a channel of its own for each name.",
                code="NAME004",
            )
        chosen[name] = same[0]
    return chosen


def select_plates(table: pd.DataFrame, plates: Sequence[str] | None, source: str) -> pd.DataFrame:
    """Keep the rows of these plates; None: of all.

    Raises
    ------
    DataError
        A plate asked for is not there (META008).
    """
    if plates is None:
        return table
    known = table["Metadata_Plate"].unique()
    absent = [plate for plate in plates if plate not in known]
    if absent:
        raise DataError(
            f"{source}: no plate {', '.join(absent)}. Known plates: {list_some(sort_naturally(known))}.", code="META008"
        )
    return table[table["Metadata_Plate"].isin(plates)].reset_index(drop=True)


def refuse_unless_skipped(left_out: pd.DataFrame, num_sites: int, source: str, *, skip_missing: bool) -> None:
    """Refuse a screen whose sites lack images, unless they may be left out; always if all do.

    Raises
    ------
    DataError
        Names the first such site (IMG001).
    """
    if left_out.empty or (skip_missing and len(left_out) < num_sites):
        return
    plate, well, site, reason = left_out.iloc[0][[*SITE, "reason"]]
    advice = "Correct the path." if len(left_out) >= num_sites else "Pass --skip-missing to leave them out."
    raise DataError(
        f"{source}: {len(left_out):,} of {num_sites:,} sites lack an image, first: {plate} {well} s{site} ({reason}). "
        f"{advice}",
        code="IMG001",
    )
