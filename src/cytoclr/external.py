"""Score anyone's profiles: a table of wells, sites or cells, what is in each well, and the mechanisms.

No run is needed, and no torch. The same way is used for the baselines that a run is scored beside.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cytoclr.config import EvaluateSettings, LabelsSeen, Normalisation, ProfileSettings
from cytoclr.errors import DataError, SettingsError
from cytoclr.progress import Progress
from cytoclr.storage import hash_tree, hold_run, write_json, write_table
from cytoclr.tables import FEW_CELLS, NUM_CELLS, WELL, round_concentrations, select_enough_cells

if TYPE_CHECKING:
    from cytoclr.evaluate import Baseline
    from cytoclr.profiles import Normaliser, Profiles

__all__ = ["count_cells", "evaluate_table", "read_baselines", "score_by_all_protocols"]

logger = logging.getLogger(__name__)


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
    progress: Progress | None = None,
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
    progress
        Who shows how far it is; None: nobody.

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
    if out.is_file():
        raise SettingsError(f"{out}: is a file. Expected a folder for the scores; choose another --out.")
    if (out / "config.yaml").exists():
        raise SettingsError(f"{out}: holds a run, whose scores would be lost. Choose another --out.")
    settings, how = profile_settings or ProfileSettings(), evaluate_settings or EvaluateSettings()
    mechanisms = mechanisms or how.mechanisms
    if all_protocols and mechanisms is None:
        raise SettingsError("all protocols: they score against mechanisms, and none are given (--mechanisms).")
    with hold_run(out):
        return _evaluate(
            profiles,
            out,
            _Tables(profiles, screen, mechanisms, columns or {}, batch_pattern, controls, positive_controls),
            settings,
            how,
            normaliser=normaliser,
            all_protocols=all_protocols,
            labels_seen=labels_seen,
            seed=seed,
            progress=progress,
        )


def _evaluate(
    profiles: Path,
    out: Path,
    tables: "_Tables",
    settings: ProfileSettings,
    how: EvaluateSettings,
    *,
    normaliser: Path | None,
    all_protocols: bool,
    labels_seen: LabelsSeen,
    seed: int,
    progress: Progress | None,
) -> dict[str, Any]:
    from cytoclr.evaluate import evaluate
    from cytoclr.profiles import list_warnings, name_normalisation, profile_wells, read_normaliser

    table, known = tables.read()
    fitted = None if normaliser is None else read_normaliser(normaliser)
    profiled = profile_wells(table, settings, normaliser=fitted)
    baselines = read_baselines(how, settings, profiled.unnormalised, normaliser=fitted, columns=tables.columns)
    result = evaluate(
        profiled.well,
        known,
        how,
        seed=seed,
        normalisation=name_normalisation(profiled.normaliser.methods),
        labels_seen=labels_seen,
        unnormalised=profiled.unnormalised,
        notes=list_warnings(profiled.report),
        baselines=baselines,
        progress=progress,
    )
    scores = result.scores
    if all_protocols and known is not None:
        scores["protocols"] = score_by_all_protocols(
            profiled.unnormalised, known, settings, how, normaliser=fitted, seed=seed
        )
    inputs = {"profiles": profiles, "screen": tables.screen, "mechanisms": tables.mechanisms, "normaliser": normaliser}
    inputs |= {f"baseline {name}": of.table for name, of in how.baselines.items()}
    write_table(out / "profiles" / "well.parquet", profiled.well)
    write_table(out / "profiles" / "treatment.parquet", profiled.treatment)
    write_table(out / "profiles" / "unnormalised.parquet", profiled.unnormalised)
    profiled.normaliser.write(out / "profiles" / "normaliser.safetensors")
    write_table(out / "matches.parquet", result.matches)
    write_table(out / "activity.parquet", result.activity)
    provenance = {
        "cytoclr": version("cytoclr"),
        "seed": seed,
        "profile": settings.model_copy(update={"normalise": profiled.normaliser.methods}).model_dump(mode="json"),
        "evaluate": how.model_dump(mode="json"),
        "columns": dict(tables.columns),
        "inputs": {
            name: None if path is None else {"path": str(path), **hash_tree(path)} for name, path in inputs.items()
        },
    }
    write_json(out / "provenance.json", provenance)
    write_json(out / "scores.json", {**scores, "profiles_report": profiled.report})
    return scores


@dataclass(frozen=True)
class _Tables:
    """The tables that tell what is to be scored, and what they do not say."""

    profiles: Path
    screen: Path | None
    mechanisms: Path | None
    columns: Mapping[str, str]
    batch_pattern: str
    controls: Sequence[str]
    positive_controls: Sequence[str]

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame | None]:
        """Read the profiles with what is in their wells, and the mechanisms."""
        from cytoclr.data.profiles import join_wells, read_profiles
        from cytoclr.data.screen import read_mechanisms

        told = _assign_columns(self.columns, profiles=self.profiles, screen=self.screen, mechanisms=self.mechanisms)
        about = None if self.screen is None else self._read_screen(self.screen, told["screen"])
        controls = self.controls if about is None else None  # a plate map says what is in a well, and replaces them
        table = read_profiles(self.profiles, columns=told["profiles"], controls=controls)
        if about is not None:
            table = join_wells(table, about, str(self.profiles))
        elif "Metadata_Compound" not in table:
            raise DataError(
                f"{self.profiles}: does not tell the compound of a well. Name its column (--column compound=NAME), or "
                "give a plate map (--screen)."
            )
        else:
            table = self._complete(table, str(self.profiles))
        known = None
        if self.mechanisms is not None:
            known = read_mechanisms(self.mechanisms, columns=told["mechanisms"])
        return round_concentrations(table), known

    def _read_screen(self, path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
        """Read what is in each well, with batch and control type."""
        from cytoclr.data.profiles import is_image_table, read_wells
        from cytoclr.data.readers.bbbc021 import read_image_table

        if not is_image_table(path):
            return self._complete(read_wells(path, columns=columns, controls=self.controls), str(path))
        return read_image_table(
            path,
            controls=self.controls,
            positive_controls=self.positive_controls,
            batch_pattern=self.batch_pattern,
        )

    def _complete(self, table: pd.DataFrame, source: str) -> pd.DataFrame:
        """Add batch, control type and concentration where the table does not tell them."""
        from cytoclr.data.screen import describe_wells

        if "Metadata_Concentration" not in table:
            logger.warning("%s: no concentration is told; every compound counts as one treatment.", source)
            table = table.assign(Metadata_Concentration=0.0)
        own = {name: table[name] for name in ("Metadata_Batch", "Metadata_control_type") if name in table}
        if len(own) == 2:
            return table
        # a table that tells its batches needs no pattern for them
        described = describe_wells(
            table,
            controls=self.controls,
            positive_controls=self.positive_controls,
            batch_pattern="^(.*)$" if "Metadata_Batch" in own else self.batch_pattern,
            source=source,
        )
        return described.assign(**own)


def _assign_columns(
    columns: Mapping[str, str], *, strict: bool = True, **tables: Path | None
) -> dict[str, dict[str, str]]:
    """Tell each table's reader those of the named columns that the table has; `strict`: refuse a name that none has."""
    from cytoclr.data.columns import MECHANISM_FIELDS, WELL_FIELDS
    from cytoclr.data.files import read_header

    headers = {name: [] if path is None else read_header(path) for name, path in tables.items()}
    told: dict[str, dict[str, str]] = {name: {} for name in tables}
    for word, column in columns.items():
        having = [name for name, header in headers.items() if column in header]
        # a folder, or a file with its names inside, is asked itself
        having += ["profiles"] if not headers["profiles"] else []
        takers = [name for name in having if word in (MECHANISM_FIELDS if name == "mechanisms" else WELL_FIELDS)]
        if not takers and strict:
            raise SettingsError(
                f"--column {word}={column}: "
                + (f"no table has {column}." if not having else f"{word} is not a field of {' or '.join(having)}.")
                + f" Known fields: {', '.join(dict.fromkeys([*WELL_FIELDS, *MECHANISM_FIELDS]))}."
            )
        for name in takers:
            told[name][word] = column
    return told


def count_cells(unnormalised: pd.DataFrame) -> pd.DataFrame | None:
    """The plainest of profiles: how many cells a well has. None where the table does not tell."""
    from cytoclr.tables import feature_columns

    if NUM_CELLS not in unnormalised:
        return None
    bare = unnormalised.drop(columns=feature_columns(unnormalised))
    return bare.assign(Cells_Count=unnormalised[NUM_CELLS].astype(float))


def read_baselines(
    evaluate_settings: EvaluateSettings,
    profile_settings: ProfileSettings,
    unnormalised: pd.DataFrame,
    *,
    normaliser: "Normaliser | None" = None,
    columns: Mapping[str, str] | None = None,
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
    normaliser
        The one that was applied to them as it was; a table with other features is normalised by the same methods.
    columns
        Names of the tables' own columns.

    Returns
    -------
    A baseline whose normalisation cannot be fitted (cell counts without spread) is left out, with a warning.

    Raises
    ------
    DataError
        A table is missing or wrong, or does not have the wells evaluated.
    """
    from cytoclr.evaluate import Baseline
    from cytoclr.profiles import list_warnings

    # wells that take no part take none in a baseline either, whatever it says of cells itself
    unnormalised = select_enough_cells(unnormalised)
    profile_settings = profile_settings.model_copy(update={"min_cells_per_well": 1})
    baselines = {}
    counted = count_cells(unnormalised)
    if counted is not None:
        try:
            # one feature has no angle, so the nearest is the nearest in number
            profiles = _profile_alike(counted, profile_settings, normaliser)
            baselines["cell-count"] = Baseline(profiles.well, metric="euclidean")
        except DataError as error:
            logger.warning("The baseline cell-count is left out: %s", error)
    for name, of in evaluate_settings.baselines.items():
        try:
            table, notes = _read_baseline(of.table, unnormalised, columns or {})
            profiles = _profile_alike(table, profile_settings, normaliser)
        except DataError as error:
            raise DataError(f"The baseline {name}: {error}") from error
        told = tuple(f"The baseline {name}: {note}" for note in (*notes, *list_warnings(profiles.report)))
        baselines[name] = Baseline(profiles.well, labels_seen=of.labels_seen, notes=told)
    return baselines


def _read_baseline(
    path: Path, unnormalised: pd.DataFrame, columns: Mapping[str, str]
) -> tuple[pd.DataFrame, list[str]]:
    """Read a table of the wells evaluated; and say which rows it has beside them, and which it lacks."""
    from cytoclr.data.profiles import join_wells, read_profiles

    table = read_profiles(path, columns=_assign_columns(columns, profiles=path, strict=False)["profiles"])
    wells = pd.MultiIndex.from_frame(unnormalised[WELL].astype("str"))
    here = pd.MultiIndex.from_frame(table[WELL]).isin(wells)
    if not here.any():
        first = " ".join(table[WELL].iloc[0].astype("str"))
        raise DataError(f"{path}: none of its {len(table):,} rows is of a well that is evaluated, first: {first}.")
    joined = join_wells(table[here].drop(columns=FEW_CELLS, errors="ignore"), unnormalised, str(path))
    notes = []
    if not here.all():
        notes.append(f"{(~here).sum():,} of its rows are of wells that are not evaluated, and were left out.")
    missing = len(wells) - len(joined.drop_duplicates(WELL))
    if missing:
        notes.append(f"it lacks {missing:,} of the {len(wells):,} wells.")
    return joined, notes


def _profile_alike(table: pd.DataFrame, settings: ProfileSettings, normaliser: "Normaliser | None") -> "Profiles":
    """Normalise another table of the same wells as the first: by what was learnt, if it is of the same features."""
    from cytoclr.profiles import profile_wells

    if normaliser is None:
        return profile_wells(table, settings)
    if set(normaliser.features) <= set(table.columns):
        return profile_wells(table, settings, normaliser=normaliser)
    return profile_wells(table, settings.model_copy(update={"normalise": normaliser.methods}))


def score_by_all_protocols(
    unnormalised: pd.DataFrame,
    mechanisms: pd.DataFrame,
    profile_settings: ProfileSettings,
    evaluate_settings: EvaluateSettings,
    *,
    normaliser: "Normaliser | None" = None,
    seed: int,
) -> dict[str, Any]:
    """Score one table by every known protocol, side by side, each on profiles normalised as it demands.

    Changes of the protocol in the settings are made to each.

    Returns
    -------
    For each protocol its choices (``protocol``), the ``normalisation``, ``nsc``, ``nscb``, ``drop``; or ``reason``
    where the controls do not allow what it demands.
    """
    from cytoclr.evaluate import PROTOCOLS, annotate_treatments, score_treatments
    from cytoclr.profiles import name_normalisation, profile_wells

    scored: dict[str, Any] = {}
    changes = evaluate_settings.protocol_changes.model_dump()
    for name, known in PROTOCOLS.items():
        protocol = known.change(changes)
        settings, applied = profile_settings, normaliser
        if protocol.normalisation is not None:
            demanded = ProfileSettings.model_validate({"normalise": protocol.normalisation}).normalise
            settings, applied = profile_settings.model_copy(update={"normalise": demanded}), None
        methods: Sequence[Normalisation] = settings.normalise if applied is None else applied.methods
        scored[name] = {"protocol": protocol.describe(), "normalisation": name_normalisation(methods)}
        try:
            wells = profile_wells(unnormalised, settings, normaliser=applied).well
            treatments = annotate_treatments(wells, mechanisms, protocol)
            scored[name] |= score_treatments(treatments, evaluate_settings, seed=seed)[0]
        except DataError as error:
            scored[name]["reason"] = str(error)
    return scored
