"""Score anyone's profiles: a table of wells, sites or cells, what is in each well, and the mechanisms.

No run is needed, and no torch. The same way is used for the baselines that a run is scored beside.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cytoclr.config import EvaluateSettings, LabelsSeen, Normalisation, ProfileSettings
from cytoclr.errors import DataError, SettingsError
from cytoclr.storage import hash_file, hold_run, write_json, write_table
from cytoclr.tables import WELL

if TYPE_CHECKING:
    from cytoclr.evaluate import Baseline

__all__ = ["count_cells", "evaluate_table", "read_baselines", "score_by_all_protocols"]

logger = logging.getLogger(__name__)

NUM_CELLS = "Metadata_NumCells"


def evaluate_table(
    profiles: Path,
    out: Path,
    *,
    screen: Path | None = None,
    mechanisms: Path | None = None,
    columns: Mapping[str, str] | None = None,
    profile_settings: ProfileSettings | None = None,
    evaluate_settings: EvaluateSettings | None = None,
    normaliser: Path | None = None,
    all_protocols: bool = False,
    labels_seen: LabelsSeen = "none",
    batch_pattern: str = r"^([^_]+)_",
    controls: Sequence[str] = ("DMSO",),
    positive_controls: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Score anyone's profiles.

    Parameters
    ----------
    profiles
        What `cytoclr.data.profiles.read_profiles` takes: one row a well, a site or a cell.
    out
        Folder for ``scores.json``, ``matches.parquet``, ``activity.parquet`` and the normalised ``profiles/``.
    screen
        What is in each well: a plate map, or an image table of BBBC021's shape; None: the profiles tell.
    mechanisms
        Compound, concentration, mechanism; None: what needs no mechanism is measured.
    columns
        Names of the tables' own columns, as ``{"compound": "Metadata_pert_iname"}``.
    profile_settings, evaluate_settings
        As in a run.
    normaliser
        One that a run has fitted and saved, applied as it is; None: fitted on these controls.
    all_protocols
        Score by every known protocol too, each on profiles normalised as it demands.
    labels_seen
        What the model behind the profiles was told.
    batch_pattern, controls, positive_controls
        Where the tables do not say them: the batch in a plate's name, and the compounds of control wells.
    seed
        Decides all that is random.

    Returns
    -------
    dict
        What ``scores.json`` holds.

    Raises
    ------
    SettingsError
        The folder is a run's.
    DataError
        A table is missing or wrong, or the wells of the two do not agree.
    """
    from cytoclr.data.profiles import read_profiles
    from cytoclr.data.screen import read_mechanisms
    from cytoclr.evaluate import evaluate
    from cytoclr.profiles import name_normalisation, profile_wells, read_normaliser

    if (out / "config.yaml").exists():
        raise SettingsError(f"{out}: holds a run, whose scores would be lost. Choose another --out.")
    profile_settings, evaluate_settings = profile_settings or ProfileSettings(), evaluate_settings or EvaluateSettings()
    told = _assign_columns(columns or {}, profiles=profiles, screen=screen, mechanisms=mechanisms)
    about = _read_screen(screen, told["screen"], controls, positive_controls, batch_pattern)
    table = read_profiles(profiles, columns=told["profiles"])
    table = _join(table, about, str(profiles), controls, positive_controls, batch_pattern)
    known = None if mechanisms is None else read_mechanisms(mechanisms, columns=told["mechanisms"])
    fitted = None if normaliser is None else read_normaliser(normaliser)
    profiled = profile_wells(table, profile_settings, normaliser=fitted)
    normalisation = name_normalisation(profiled.normaliser.methods)
    baselines = read_baselines(evaluate_settings, profile_settings, profiled.unnormalised)
    result = evaluate(
        profiled.well,
        known,
        evaluate_settings,
        seed=seed,
        normalisation=normalisation,
        labels_seen=labels_seen,
        unnormalised=profiled.unnormalised,
        baselines=baselines,
    )
    scores = result.scores
    if all_protocols and known is not None:
        scores["protocols"] = score_by_all_protocols(
            profiled.unnormalised, known, profile_settings, evaluate_settings, seed=seed
        )
    inputs = {"profiles": profiles, "screen": screen, "mechanisms": mechanisms, "normaliser": normaliser}
    with hold_run(out):
        write_table(out / "profiles" / "well.parquet", profiled.well)
        write_table(out / "profiles" / "treatment.parquet", profiled.treatment)
        write_table(out / "profiles" / "unnormalised.parquet", profiled.unnormalised)
        profiled.normaliser.write(out / "profiles" / "normaliser.safetensors")
        write_table(out / "matches.parquet", result.matches)
        write_table(out / "activity.parquet", result.activity)
        write_json(out / "provenance.json", {"inputs": {name: _hash(path) for name, path in inputs.items()}})
        write_json(out / "scores.json", {**scores, "profiles_report": profiled.report})
    return scores


def _assign_columns(columns: Mapping[str, str], **tables: Path | None) -> dict[str, dict[str, str]]:
    """Tell each table's reader those of the named columns that the table has; refuse a name that none has."""
    from cytoclr.data.columns import MECHANISM_FIELDS, WELL_FIELDS
    from cytoclr.data.files import read_header

    headers = {name: [] if path is None else read_header(path) for name, path in tables.items()}
    told: dict[str, dict[str, str]] = {name: {} for name in tables}
    for word, column in columns.items():
        having = [name for name, header in headers.items() if column in header]
        # a folder, or a file with its names inside, is asked itself
        having += ["profiles"] if not headers["profiles"] else []
        takers = [name for name in having if word in (MECHANISM_FIELDS if name == "mechanisms" else WELL_FIELDS)]
        if not takers:
            raise SettingsError(
                f"--column {word}={column}: "
                + (f"no table has {column}." if not having else f"{word} is not a field of {' or '.join(having)}.")
                + f" Known fields: {', '.join(dict.fromkeys([*WELL_FIELDS, *MECHANISM_FIELDS]))}."
            )
        for name in takers:
            told[name][word] = column
    return told


def _hash(path: Path | None) -> str | None:
    return hash_file(path) if path is not None and path.is_file() else None


def _read_screen(
    path: Path | None,
    columns: Mapping[str, str] | None,
    controls: Sequence[str],
    positive_controls: Sequence[str],
    batch_pattern: str,
) -> pd.DataFrame | None:
    """Read what is in each well, with batch and control type."""
    if path is None:
        return None
    from cytoclr.data.profiles import is_image_table, read_wells
    from cytoclr.data.readers.bbbc021 import read_image_table

    if is_image_table(path):
        return read_image_table(
            path, controls=controls, positive_controls=positive_controls, batch_pattern=batch_pattern
        )
    return _complete(read_wells(path, columns=columns), str(path), controls, positive_controls, batch_pattern)


def _join(
    table: pd.DataFrame,
    about: pd.DataFrame | None,
    source: str,
    controls: Sequence[str],
    positive_controls: Sequence[str],
    batch_pattern: str,
) -> pd.DataFrame:
    from cytoclr.data.profiles import join_wells

    if about is not None:
        return join_wells(table, about, source)
    if "Metadata_Compound" not in table:
        raise DataError(
            f"{source}: does not tell the compound of a well. Name its column (--column compound=NAME), or give a "
            "plate map (--screen)."
        )
    return _complete(table, source, controls, positive_controls, batch_pattern)


def _complete(
    table: pd.DataFrame,
    source: str,
    controls: Sequence[str],
    positive_controls: Sequence[str],
    batch_pattern: str,
) -> pd.DataFrame:
    """Add batch, control type and concentration where the table does not tell them."""
    from cytoclr.data.screen import describe_wells

    if "Metadata_Concentration" not in table:
        logger.warning("%s: no concentration is told; every compound counts as one treatment.", source)
        table = table.assign(Metadata_Concentration=0.0)
    own = {name: table[name] for name in ("Metadata_Batch", "Metadata_control_type") if name in table}
    if len(own) == 2:
        return table
    # a table that tells its batches needs no pattern for them
    pattern = "^(.*)$" if "Metadata_Batch" in own else batch_pattern
    described = describe_wells(
        table, controls=controls, positive_controls=positive_controls, batch_pattern=pattern, source=source
    )
    return described.assign(**own)


def count_cells(unnormalised: pd.DataFrame) -> pd.DataFrame | None:
    """The plainest of profiles: how many cells a well has. None where the table does not tell."""
    from cytoclr.tables import feature_columns

    if NUM_CELLS not in unnormalised:
        return None
    bare = unnormalised.drop(columns=feature_columns(unnormalised))
    return bare.assign(Cells_Count=unnormalised[NUM_CELLS].astype(float))


def read_baselines(
    evaluate_settings: EvaluateSettings, profile_settings: ProfileSettings, unnormalised: pd.DataFrame
) -> "dict[str, Baseline]":
    """Make the baselines that need no encoder: the number of cells, and the tables that the settings name.

    Parameters
    ----------
    evaluate_settings
        Its `baselines`: tables of profiles of the same wells.
    profile_settings
        All are normalised alike.
    unnormalised
        The wells evaluated: they tell what is in each well.

    Returns
    -------
    A baseline whose normalisation cannot be fitted (cell counts without spread) is left out, with a warning.

    Raises
    ------
    DataError
        A table is missing or wrong, or does not have the wells evaluated.
    """
    from cytoclr.data.profiles import join_wells, read_profiles
    from cytoclr.evaluate import Baseline
    from cytoclr.profiles import profile_wells

    baselines = {}
    counted = count_cells(unnormalised)
    if counted is not None:
        try:
            # one feature has no angle, so the nearest is the nearest in number
            baselines["cell-count"] = Baseline(profile_wells(counted, profile_settings).well, metric="euclidean")
        except DataError as error:
            logger.warning("The baseline cell-count is left out: %s", error)
    for name, of in evaluate_settings.baselines.items():
        table = read_profiles(of.table)
        wells = pd.MultiIndex.from_frame(unnormalised[WELL].astype("str"))
        here = pd.MultiIndex.from_frame(table[WELL]).isin(wells)
        if not here.all():
            logger.warning(
                "The baseline %s has %s rows of wells that are not evaluated; they are left out.", name, (~here).sum()
            )
        joined = join_wells(table[here], unnormalised, str(of.table))
        missing = len(wells) - len(joined.drop_duplicates(WELL))
        if missing:
            logger.warning("The baseline %s lacks %s of %s wells.", name, missing, len(wells))
        baselines[name] = Baseline(profile_wells(joined, profile_settings).well, labels_seen=of.labels_seen)
    return baselines


def score_by_all_protocols(
    unnormalised: pd.DataFrame,
    mechanisms: pd.DataFrame,
    profile_settings: ProfileSettings,
    evaluate_settings: EvaluateSettings,
    *,
    seed: int,
) -> dict[str, Any]:
    """Score one table by every known protocol, side by side, each on profiles normalised as it demands.

    Returns
    -------
    For each protocol its choices (``protocol``), the ``normalisation``, ``nsc``, ``nscb``, ``drop``; or ``reason``
    where the controls do not allow what it demands.
    """
    from cytoclr.evaluate import PROTOCOLS, annotate_treatments, score_treatments
    from cytoclr.profiles import name_normalisation, profile_wells

    scored: dict[str, Any] = {}
    for name, protocol in PROTOCOLS.items():
        methods: tuple[Normalisation, ...] = profile_settings.normalise
        if protocol.normalisation is not None:
            methods = ProfileSettings.model_validate({"normalise": protocol.normalisation}).normalise
        scored[name] = {"protocol": protocol.describe(), "normalisation": name_normalisation(methods)}
        try:
            wells = profile_wells(unnormalised, profile_settings.model_copy(update={"normalise": methods})).well
            found, _ = score_treatments(annotate_treatments(wells, mechanisms, protocol), evaluate_settings, seed=seed)
            scored[name] |= found
        except DataError as error:
            scored[name]["reason"] = str(error)
    return scored
