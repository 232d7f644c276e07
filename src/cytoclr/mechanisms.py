"""Mechanisms beside treatments: the one way to join them, which training and profiling may not import."""

import numpy as np
import pandas as pd

from cytoclr.errors import DataError
from cytoclr.tables import MECHANISM, MECHANISMS, TREATMENT, check_table, round_concentrations

__all__ = ["join_mechanisms"]


def join_mechanisms(frame: pd.DataFrame, mechanisms: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``Metadata_MoA`` to treatments, or to what was treated.

    Parameters
    ----------
    frame
        A compound and a concentration a row. What it says of mechanisms itself does not count.
    mechanisms
        The columns of `MECHANISMS`. A row without a concentration holds for every concentration of its compound that
        has no row of its own.

    Returns
    -------
    pandas.DataFrame
        The rows in their order, numbered anew; concentrations rounded as in `round_concentrations`; the mechanism NaN
        where it is not known.

    Raises
    ------
    DataError
        The mechanism table is empty or not as declared.
    """
    if mechanisms.empty:
        raise DataError(
            "mechanisms: the table has no rows. Expected one row for each treatment whose mechanism is known "
            "(compound, concentration, mechanism); without any, leave the table out."
        )
    known = check_table(round_concentrations(mechanisms), MECHANISMS, "mechanisms")[[*TREATMENT, MECHANISM]]
    for_any = known["Metadata_Concentration"].isna()
    of_compounds = known[for_any].set_index("Metadata_Compound")[MECHANISM]
    bare = round_concentrations(frame.drop(columns=MECHANISM, errors="ignore"))
    joined = bare.merge(known[~for_any], on=TREATMENT, how="left", validate="many_to_one")
    of_compound = joined["Metadata_Compound"].map(of_compounds)
    return joined.assign(**{MECHANISM: np.where(joined[MECHANISM].notna(), joined[MECHANISM], of_compound)})
