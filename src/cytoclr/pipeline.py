"""The whole way on one page: screen -> crop -> train -> select -> embed -> profile -> evaluate -> report.

Each verb brings a run folder up to its stage and leaves alone what is finished: a stage is run again only if its
settings, its inputs or its version changed. This is the only module that reads and writes run folders
(docs/reference/files.md).
"""

import contextlib
import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd
from pydantic import BaseModel

from cytoclr.config import (
    HOW_FAST,
    Bbbc021Settings,
    CropSettings,
    EmbedSettings,
    LabelsSeen,
    ProbeSettings,
    Settings,
    VirtualSettings,
    dump_settings,
)
from cytoclr.errors import DamagedError, DataError, MachineError, SettingsError, list_some
from cytoclr.external import evaluate_table, read_baselines
from cytoclr.progress import Progress, Silent
from cytoclr.reports import find_mechanism_table, gather_inputs
from cytoclr.results import compare, embeddings_path, export, profile_path
from cytoclr.stages import StageFolder
from cytoclr.stopping import check_request
from cytoclr.storage import (
    Manifest,
    hash_file,
    hold_run,
    read_json,
    read_table,
    write_json,
    write_table,
    write_text,
)
from cytoclr.tables import EMBEDDINGS, TRAINED, check_table

if TYPE_CHECKING:
    from cytoclr.data.cluster import Cluster
    from cytoclr.data.crops import CropStore
    from cytoclr.data.findings import Checked
    from cytoclr.data.sources import RealScreenSettings
    from cytoclr.data.stage import CropPlan
    from cytoclr.data.virtual import VirtualScreen
    from cytoclr.learn import Encoder
    from cytoclr.learn.processes import Task
    from cytoclr.learn.train import Probe

__all__ = [
    "STAGES",
    "check",
    "compare",
    "crop",
    "embed",
    "evaluate",
    "evaluate_table",
    "export",
    "profile",
    "report",
    "run",
    "train",
]

logger = logging.getLogger(__name__)

Stage = Literal["screen", "crop", "train", "select", "embed", "profile", "evaluate", "report"]

#: The stages in their order, each with its version: raised by hand when its results change.
STAGES: dict[Stage, int] = {
    "screen": 1,
    "crop": 3,
    "train": 3,
    "select": 1,
    "embed": 3,
    "profile": 2,
    "evaluate": 2,
    "report": 4,
}

#: Sites that are looked at before a screen is cut.
_SITES_CHECKED = 12
#: By one of these a run folder is known, wherever it was stopped.
_MARKS = ("config.yaml", "manifests", "unfinished", ".lock")


def run(settings: Settings, out: Path, *, until: Stage = "report", progress: Progress | None = None) -> Path:
    """Bring a run folder up to a stage; finished stages are left alone, an interrupted one goes on.

    Parameters
    ----------
    settings
        What to do; see `cytoclr.config.read_settings`.
    out
        The run folder: new, or that of an earlier run.
    until
        The last stage to do.
    progress
        Who shows how far it is; None: nobody.

    Returns
    -------
    pathlib.Path
        The run folder.

    Raises
    ------
    SettingsError, DataError, MachineError, DamagedError
        See `cytoclr.errors`. What was finished stays.
    """
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in _MARKS):
        raise SettingsError(f"{out}: exists and is not a run folder. Choose another --out; nothing was changed.")
    task = _find_task()
    if task is not None and task.number > 0:
        _follow(settings, out, until, task)
        return out
    with hold_run(out):
        here = _Run(settings, out, progress or Silent(), until, task)
        here.begin()
        way = (
            here.screen,
            here.crop,
            here.train,
            here.select,
            here.embed,
            here.profile,
            here.evaluate,
            here.report,
        )
        for stage, climb in zip(STAGES, way, strict=True):
            climb()
            if stage == until:
                break
        here.warn_of_old_results(until)
    return out


def check(settings: Settings, out: Path, *, every: bool = False, progress: Progress | None = None) -> "Checked":
    """Look for what would go wrong or make no sense, before anything is done; nothing is written.

    Parameters
    ----------
    settings, out
        As for `run`; the run folder need not be there.
    every
        Look at all images, not at a sample.
    progress
        Told of every site that is looked at.

    Returns
    -------
    Checked
        Its `findings`, and how much was looked at. Of a virtual screen, nothing: what is simulated has no faults.

    Raises
    ------
    SettingsError, MachineError
        For what no finding can say. What is wrong with the data is never raised.
    """
    from cytoclr.data.checks import Checked, check_screen

    if isinstance(settings.screen, VirtualSettings):
        logger.info("the screen is a virtual one: there is nothing to check")
        return Checked(())
    return check_screen(
        settings,
        screen=settings.screen,
        locations=settings.crop.locations,
        mechanisms=settings.evaluate.mechanisms,
        folder=out,
        every=every,
        progress=progress,
    )


def crop(settings: Settings, out: Path, *, progress: Progress | None = None) -> Path:
    """Run up to the crops: cells located, cut out and stored. See `run`."""
    return run(settings, out, until="crop", progress=progress)


def train(settings: Settings, out: Path, *, progress: Progress | None = None) -> Path:
    """Run up to the trained encoder. See `run`."""
    return run(settings, out, until="train", progress=progress)


def embed(settings: Settings, out: Path, *, progress: Progress | None = None) -> Path:
    """Run up to the embeddings of all cells, and of the baselines. See `run`."""
    return run(settings, out, until="embed", progress=progress)


def profile(settings: Settings, out: Path, *, progress: Progress | None = None) -> Path:
    """Run up to the profiles of sites, wells and treatments. See `run`."""
    return run(settings, out, until="profile", progress=progress)


def evaluate(settings: Settings, out: Path, *, progress: Progress | None = None) -> Path:
    """Run up to the scores. See `run`."""
    return run(settings, out, until="evaluate", progress=progress)


def report(settings: Settings, out: Path, *, progress: Progress | None = None) -> Path:
    """Run up to the report, ``report.html``. See `run`."""
    return run(settings, out, until="report", progress=progress)


def _find_task() -> "Task | None":
    """Find out whether torchrun or srun started several processes for this run, without torch where they did not."""
    if not {"TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"} & set(os.environ):
        return None
    from cytoclr.learn.processes import find_task

    return find_task()


def _follow(settings: Settings, out: Path, until: Stage, task: "Task") -> None:
    """Come in for the training of a run that another task does, and for nothing else."""
    if list(STAGES).index(until) < list(STAGES).index("train") or settings.embed.model is not None:
        return
    from cytoclr.learn.processes import await_leader

    place = await_leader(task)
    if place is not None:
        _Run(settings, out, Silent(), until, task).train_in(place)


class _Run:
    """A run folder being brought up, stage by stage; every method named as a stage finishes that stage."""

    def __init__(
        self, settings: Settings, folder: Path, progress: Progress, until: Stage, task: "Task | None" = None
    ) -> None:
        self.settings = settings
        self.task = task
        self.until = until
        self.folder = folder
        self.progress = progress
        self.stages = StageFolder(folder)
        self._redone = False
        self._checked: set[Stage] = set()
        self._store: object = None  # through which followers are told; it lives as long as the run

    def begin(self) -> None:
        """Refuse what would only be found out at the end."""
        if self._virtual is None:
            _ = self._mechanisms
        self._check_given_model()

    def _check_given_model(self) -> None:
        """Refuse what makes no sense with a model made elsewhere."""
        given, select = self.settings.embed.model, self.settings.select
        if given is None:
            return
        if self.until in {"train", "select"}:
            raise SettingsError(
                f"embed.model: {given} was made elsewhere, so there is nothing to {self.until}. Go on to embed, or set "
                "it to null."
            )
        if select.by != "last" or select.measure_epochs:
            raise SettingsError(
                "select chooses among the epochs of the run's own training, and embed.model names a model made "
                "elsewhere. Set select.by: last and select.measure_epochs: false, or embed.model: null."
            )
        _hash_given_model(given)

    def warn_of_old_results(self, until: Stage) -> None:
        """Say which later stages still hold what earlier settings gave."""
        order = list(STAGES)
        later = [stage for stage in order[order.index(until) + 1 :] if self.stages.manifest_path(stage).exists()]
        if self._redone and later:
            logger.warning("%s: %s still from before; `cytoclr run` renews them.", self.folder, ", ".join(later))

    def screen(self) -> None:
        """Simulate the virtual screen, where that is the screen."""
        screen = self.settings.screen
        if not isinstance(screen, VirtualSettings):
            return
        from cytoclr.data.virtual import simulate_screen

        def work(place: Path) -> dict[str, Any]:
            simulate_screen(screen, place / "virtual", progress=self.progress)
            return {}

        self._finish("screen", {"settings": _values(screen)}, work)

    def crop(self) -> None:
        """Locate the cells, cut them out, store them with their table."""
        from cytoclr.data.cluster import open_cluster

        with contextlib.ExitStack() as opened:
            get_cluster = partial(opened.enter_context, open_cluster(self.settings.cluster))
            if self.settings.cluster.where == "processes" and not self.stages.manifest_path("crop").is_file():
                cluster = get_cluster()  # its processes start while the cutting is planned
                self._crop(lambda: cluster)
            else:
                self._crop(get_cluster)

    def _crop(self, get_cluster: "Callable[[], Cluster]") -> None:
        from cytoclr.data.stage import plan_crops

        settings = self.settings
        try:
            plan = plan_crops(self._real_screen, settings.crop, locations=self._locations_path)
        except DataError as error:
            if error.code != "IMG001" or not self._has_crops():
                raise
            logger.warning(
                "images are gone (%s) The crops that are there are used as they are, whatever the "
                "settings of screen and crop say.",
                error,
            )
            return
        self._check_controls(plan.screen)
        probe = settings.train.probe
        probe_plan = (
            None if probe.screen is None else plan_crops(probe.screen, _of_ready_crops(settings.crop), locations=None)
        )

        def work(place: Path) -> dict[str, Any]:
            self._refuse_errors(plan)
            cluster = get_cluster()
            made = plan.cut(place, self.progress, cluster)
            if probe_plan is not None:
                probe_plan.cut(place / "probe", self.progress, cluster)
            return made

        inputs = {
            # the plan has the effect of the others
            "settings": _values(settings.crop, leave_out={"locations", "masks", "skip_missing"}),
            "screen": plan.inputs,
            "probe": None if probe_plan is None else probe_plan.inputs,
        }
        simulated: tuple[Stage, ...] = () if self._virtual is None else ("screen",)
        told = self._finish("crop", inputs, work, reads=simulated, read_hashes=_read_crop_hashes).report
        if told["flagged"].get("empty", 0) > told["num_cells"] / 2:
            logger.warning(
                "most crops hold nothing: %s of %s. Do the centres fit the images (x and y exchanged, µm for px, sites "
                "counted from 0)? Look at %s.",
                f"{told['flagged']['empty']:,}",
                f"{told['num_cells']:,}",
                self.folder / "overlays",
            )
        for what, where in (("left_out", "left_out.csv"), ("flagged", "cells.parquet")):
            counts = ", ".join(f"{count:,} × {reason}" for reason, count in told[what].items())
            if counts:
                logger.warning("%s: %s; listed in %s", what.replace("_", " "), counts, self.folder / where)

    def train(self) -> None:
        """Train the encoder, without mechanisms; not where a model made elsewhere embeds."""
        if self.settings.embed.model is not None:
            return
        settings, seed = self.settings.train, self.settings.seed
        by_content = {"fine_tune_from", "probe"}  # not by their place
        inputs = {
            "settings": _values(settings, leave_out=by_content.union(HOW_FAST)),
            "probe": _values(settings.probe, leave_out={"screen"}),
            "seed": seed,
            "crops": self._hash_crops(),
            "fine_tune_from": _hash_model(settings.fine_tune_from),
        }

        def work(place: Path) -> Mapping[str, Any]:
            from cytoclr.learn import build_untrained_encoder
            from cytoclr.learn.embed import check_recalibration

            if self.settings.embed.recalibrate != "none":  # hours before embedding would refuse it
                check_recalibration(build_untrained_encoder(settings, len(self._crops.channels), seed).network)
            self._call_followers(place)
            return self.train_in(place)

        self._finish("train", inputs, work, reads=["crop"])
        self._call_followers(None)

    def train_in(self, place: Path) -> dict[str, Any]:
        """Train in this folder, alone or as one of several tasks."""
        from cytoclr.learn import train

        told = train(
            self._crops,
            self._cells,
            self.settings.train,
            folder=place / "model",
            seed=self.settings.seed,
            device=self.settings.device,
            progress=self.progress,
            probe=self._make_probe(),
        )
        return asdict(told)

    def _call_followers(self, place: Path | None) -> None:
        """Tell other tasks of this run, once, where it trains; None: it does not."""
        if self.task is None or self._store is not None:
            return
        from cytoclr.learn.processes import tell_followers

        self._store = tell_followers(self.task, place)

    def select(self) -> None:
        """Choose the epoch whose encoder embeds; mechanisms are looked at only where the settings say so."""
        if self.settings.embed.model is not None:
            return
        settings, seed = self.settings.select, self.settings.seed
        by_mechanism = settings.by == "nscb"
        if by_mechanism and self._mechanisms_path is None:
            raise SettingsError(
                "select.by: nscb needs mechanisms. Name evaluate.mechanisms, or choose another measure."
            )
        inputs: dict[str, Any] = {"settings": _values(settings), "model": self._hash_encoder()}
        if settings.by != "last" or settings.measure_epochs:
            inputs |= {
                "checkpoints": self._hash_checkpoints(),
                "crops": self._hash_crops(),
                "profile": _values(self.settings.profile),
                "embed": _values(self.settings.embed),
                "mechanisms": _hash_input(self._mechanisms_path) if by_mechanism and self._mechanisms_path else None,
                "seed": seed,
            }

        def work(place: Path) -> dict[str, Any]:
            from cytoclr.evaluate import choose_epoch

            rows = []
            for epoch, checkpoint in self._list_epochs().items() if "checkpoints" in inputs else ():
                measured = self._measure_epoch(checkpoint, place / "epochs" / f"{epoch:04d}.parquet")
                rows.append({"epoch": epoch, **measured})
            last = int(read_json(self.folder / "model" / "model.json")["epochs"])
            table = pd.DataFrame(rows or [{"epoch": last}])
            write_table(place / "epochs.parquet", table)
            return {"selected": choose_epoch(table, settings.by), "by": settings.by}

        self._finish("select", inputs, work, reads=["train"])

    def embed(self) -> None:
        """Embed all cells with the chosen encoder, and with what it must beat."""
        settings, device, given = self.settings.embed, self.settings.device, self.settings.embed.model
        selected = None if given is not None else self.stages.read_finished("select").report["selected"]
        inputs = {
            "settings": _values(settings, leave_out={"imagenet_weights", "model"}),  # by their content
            "crops": self._hash_crops(),
            "model": self._hash_encoder() if given is None else _hash_given_model(given),
            "epoch": selected,
            "imagenet": _hash_model(settings.imagenet_weights),
        }

        def work(place: Path) -> dict[str, Any]:
            from cytoclr.data.intensities import measure_intensities
            from cytoclr.learn import embed
            from cytoclr.learn.embed import find_uncalibrated_plates, has_batch_norms

            crops, cells = self._crops, self._cells
            encoders = self._build_encoders(selected)
            embeddings = {}
            for name, encoder in encoders.items():
                can = name == "embeddings" or has_batch_norms(encoder.network)
                how = settings if can else settings.model_copy(update={"recalibrate": "none"})
                embeddings[name] = embed(crops, cells, encoder, how, device=device, progress=self.progress)
            embeddings["baselines/intensities"] = measure_intensities(crops, cells, progress=self.progress)
            model = encoders["embeddings"].about
            assert model is not None
            told = {"backbone": model.backbone, "channels": model.channels, "labels_seen": model.labels_seen}
            for name, table in embeddings.items():
                about = {**crops.describe_channels(), **({"model": told} if name == "embeddings" else {})}
                write_table(place / f"{name}.parquet", check_table(table, EMBEDDINGS, name), about=about)
            few = find_uncalibrated_plates(cells) if settings.recalibrate == "plate-controls" else {}
            return {
                "num_cells": len(cells),
                "baselines": [Path(name).name for name in embeddings if "/" in name],
                "model": {**told, "place": None if given is None else str(given)},
                "uncalibrated_plates": few,
            }

        self._finish("embed", inputs, work, reads=("crop", "train") if given is None else ("crop",))

    def _build_encoders(self, selected: int | None) -> "dict[str, Encoder]":
        """The encoder that embeds, and those it must beat, by the tables that are made with them."""
        from cytoclr.learn import build_untrained_encoder, load_encoder
        from cytoclr.learn.model import build_untrained_peer

        settings, crops, seed = self.settings.embed, self._crops, self.settings.seed
        if settings.model is None:
            assert selected is not None
            trained = load_encoder(self._list_epochs()[selected], crops)
            untrained = build_untrained_encoder(self.settings.train, len(crops.channels), seed)
        else:
            trained = load_encoder(settings.model, crops, channels=settings.model_channels)
            assert trained.about is not None
            untrained = build_untrained_peer(trained.about, seed=seed)
        imagenet = self._build_imagenet(len(crops.channels))
        encoders = {"embeddings": trained, "baselines/untrained": untrained, "baselines/imagenet": imagenet}
        return {name: encoder for name, encoder in encoders.items() if encoder is not None}

    def profile(self) -> None:
        """Average embeddings to sites, wells and treatments; normalise on the controls."""
        settings = self.settings.profile

        def work(place: Path) -> dict[str, Any]:
            from cytoclr.profiles import profile

            told = {}
            for name in (TRAINED, *self._baselines):
                profiles = profile(self._read_embeddings(name), settings)
                for level in ("site", "well", "treatment", "unnormalised"):
                    write_table(place / profile_path(name, level), getattr(profiles, level))
                profiles.normaliser.write((place / profile_path(name, "")).with_name("normaliser.safetensors"))
                told[name] = profiles.report
            return told

        from cytoclr.profiles import list_warnings

        inputs = {"settings": _values(settings), "embed": self._hashes("embed")}
        report = self._finish("profile", inputs, work, reads=["embed"]).report
        for warning in list_warnings(report[TRAINED]):
            logger.warning("profile: %s", warning)

    def evaluate(self) -> None:
        """Score the profiles against known mechanisms."""
        settings, seed = self.settings.evaluate, self.settings.seed
        path = self._mechanisms_path
        inputs = {
            "settings": _values(settings, leave_out={"mechanisms", "baselines"}),  # by their content
            "seed": seed,
            "normalise": self.settings.profile.model_dump(mode="json"),
            "profiles": self._hashes("profile"),
            "embed": self._hashes("embed"),
            "select": {**self._hashes("select"), **_values(self.settings.select)} if self._trains else None,
            "labels_seen": self._labels_seen,
            "notes": self._model_notes,
            "mechanisms": None if path is None else _hash_input(path),
            "baselines": {name: _hash_input(of.table) for name, of in settings.baselines.items()},
        }

        def work(place: Path) -> dict[str, Any]:
            from cytoclr.evaluate import Baseline, evaluate
            from cytoclr.profiles import list_warnings, name_normalisation

            unnormalised = self._read_profile(TRAINED, "unnormalised")
            own = {name: Baseline(self._read_profile(name, "well")) for name in self._baselines}
            result = evaluate(
                self._read_profile(TRAINED, "well"),
                self._mechanisms,
                settings,
                seed=seed,
                normalisation=name_normalisation(self.settings.profile.normalise),
                notes=[*self._model_notes, *list_warnings(self.stages.read_finished("profile").report[TRAINED])],
                labels_seen=self._labels_seen,
                unnormalised=unnormalised,
                embeddings=self._read_embeddings(TRAINED),
                baselines=own | read_baselines(settings, self.settings.profile, unnormalised),
                selection=self._describe_selection(),
                progress=self.progress,
            )
            write_json(place / "scores.json", result.scores)
            write_table(place / "matches.parquet", result.matches)
            write_table(place / "activity.parquet", result.activity)
            return {}

        self._finish(
            "evaluate", inputs, work, reads=("embed", "profile", "select") if self._trains else ("embed", "profile")
        )

    def report(self) -> None:
        """Draw the report."""
        stages: tuple[Stage, ...] = (
            ("crop", "train", "embed", "profile", "evaluate")
            if self._trains
            else ("crop", "embed", "profile", "evaluate")
        )
        hashes = {stage: self._hashes(stage) for stage in stages}
        decides = {"settings": _values(self.settings.report), "seed": self.settings.seed, "stages": hashes}

        def work(place: Path) -> dict[str, Any]:
            from cytoclr.report import write_report

            inputs = gather_inputs(self.folder, self.settings)
            page = place / "report.html"
            write_report(page, inputs, self.settings.report, seed=self.settings.seed, progress=self.progress)
            return {}

        self._finish("report", decides, work, reads=stages)

    # What stages read of each other, and of the user.

    def _has_crops(self) -> bool:
        """Tell whether whole crops of an earlier run are there for the stages after them."""
        path = self.stages.manifest_path("crop")
        return self.until != "crop" and path.is_file() and not Manifest.read(path).find_damage(self.folder)

    def _check_controls(self, screen: pd.DataFrame) -> None:
        """Refuse before hours are spent what the profiles would refuse at their end."""
        from cytoclr.data.checks import check_controls

        check_controls(screen, controls=self._real_screen.controls, normalise=self.settings.profile.normalise)

    def _refuse_errors(self, plan: "CropPlan") -> None:
        """Look at some sites before all are cut: errors are refused, warnings logged."""
        from cytoclr.data.checks import check_source

        if self._virtual is not None:
            return
        checked = check_source(
            self.settings,
            plan.source,
            screen=self._real_screen,
            locations=plan.locations,
            finds_nuclei=plan.locations is None and self.settings.crop.masks is None,
            mechanisms=self._mechanisms_path,
            folder=self.folder,
            sample=_SITES_CHECKED,
            progress=self.progress,
        )
        for finding in checked.findings:
            if finding.severity == "warning":
                logger.warning("%s [%s]", f"{finding.message} {finding.fix}".strip(), finding.code)
        errors = [finding for finding in checked.findings if finding.severity == "error"]
        if not errors:
            return
        first, *others = errors
        if first.error is not None:
            raise first.error
        more = f" {len(others)} more; see `cytoclr check`." if others else ""
        raise DataError(f"{first.message} {first.fix}".strip() + more, code=first.code)

    @cached_property
    def _virtual(self) -> "VirtualScreen | None":
        if not isinstance(self.settings.screen, VirtualSettings):
            return None
        from cytoclr.data.virtual import VirtualScreen

        return VirtualScreen(self.folder / "virtual")

    @cached_property
    def _real_screen(self) -> "RealScreenSettings":
        """The screen to read: the user's, or the simulated one, which looks like BBBC021 on the disk."""
        screen = self.settings.screen
        if not isinstance(screen, VirtualSettings):
            return screen
        from cytoclr.data.virtual import CONTROL, POSITIVE_CONTROL

        assert self._virtual is not None
        return Bbbc021Settings(
            reader="bbbc021",
            image_table=self._virtual.image_table,
            images=self._virtual.images,
            controls=(CONTROL,),
            positive_controls=(POSITIVE_CONTROL,),
            pixel_size_um=self._virtual.pixel_size_um,
        )

    @cached_property
    def _locations_path(self) -> Path | None:
        given = self.settings.crop.locations
        return self._virtual.locations if self._virtual is not None and given is None else given

    @cached_property
    def _mechanisms_path(self) -> Path | None:
        return find_mechanism_table(self.folder, self.settings)

    @cached_property
    def _mechanisms(self) -> pd.DataFrame | None:
        from cytoclr.data.screen import read_mechanisms

        return None if self._mechanisms_path is None else read_mechanisms(self._mechanisms_path)

    @cached_property
    def _crops(self) -> "CropStore":
        from cytoclr.data.crops import CropStore

        return CropStore(self.folder / "crops")

    @cached_property
    def _cells(self) -> pd.DataFrame:
        return read_table(self.folder / "cells.parquet")

    def _read_embeddings(self, name: str) -> pd.DataFrame:
        return read_table(self.folder / embeddings_path(name))

    def _read_profile(self, name: str, level: str) -> pd.DataFrame:
        return read_table(self.folder / profile_path(name, level))

    @cached_property
    def _labels_seen(self) -> LabelsSeen:
        """What the trained encoder was told; the model's file says it in words."""
        words = str(self.stages.read_finished("embed").report["model"]["labels_seen"])
        return next((kind for kind in get_args(LabelsSeen) if words.startswith(kind)), "mechanisms")

    @property
    def _trains(self) -> bool:
        """Whether the run's own training embeds, not a model made elsewhere."""
        return self.settings.embed.model is None

    @property
    def _model_notes(self) -> list[str]:
        """What a reader must know of how the embeddings came about."""
        told = self.stages.read_finished("embed").report
        model, few, notes = told["model"], told["uncalibrated_plates"], []
        if model["place"] is not None:
            notes.append(
                f"Embedded with a model made elsewhere, {Path(model['place']).name}: {model['backbone']}, channels "
                f"{', '.join(model['channels'])}, labels seen: {model['labels_seen']}. Untrained is the same backbone "
                "with random weights."
            )
        if few:
            notes.append(
                f"{len(few)} plates have too few control cells to estimate statistics of batch norms on, and were "
                f"embedded with those of training: {list_some(list(few))}."
            )
        return notes

    def _finish(
        self,
        stage: Stage,
        inputs: Mapping[str, Any],
        work: Callable[[Path], Mapping[str, Any]],
        *,
        reads: Sequence[Stage] = (),
        **more: Any,
    ) -> Manifest:
        """Do a stage unless it is finished; first see that the stages it `reads` are as they were written."""
        check_request()

        def check_and_work(place: Path) -> Mapping[str, Any]:
            for other in reads:
                self._check_bytes(other)
            return work(place)

        before = self.stages.read_finished(stage) if self.stages.manifest_path(stage).is_file() else None
        manifest = self.stages.finish(stage, {"version": STAGES[stage], **inputs}, check_and_work, **more)
        self._redone |= manifest != before
        write_text(self.folder / "config.yaml", dump_settings(self.settings))
        write_json(self.folder / "provenance.json", _describe_machine())
        return manifest

    def _check_bytes(self, stage: Stage) -> None:
        """Read a finished stage's files once, before another relies on them.

        Raises
        ------
        DamagedError
            One is not as it was written.
        """
        if stage in self._checked:
            return
        damage = self.stages.read_finished(stage).find_damage(self.folder, read_all=True)
        if damage:
            raise DamagedError(
                f"{self.folder}: {list_some(damage)}. `cytoclr verify {self.folder} --forget` has the stage {stage} "
                "done again by the next run."
            )
        self._checked.add(stage)

    def _hashes(self, stage: Stage) -> dict[str, str]:
        return {name: record.sha256 for name, record in self.stages.read_finished(stage).files.items()}

    def _hash_crops(self) -> dict[str, str]:
        """The crops and their cells; not the tables that also say where the images lie."""
        kept = ("crops/", "cells.parquet", "probe/crops/", "probe/cells.parquet")
        return {name: sha256 for name, sha256 in self._hashes("crop").items() if name.startswith(kept)}

    def _hash_encoder(self) -> dict[str, str]:
        """What of the model decides embeddings: not its logs."""
        wanted = {"model/encoder.safetensors", "model/model.json"}
        return {name: sha256 for name, sha256 in self._hashes("train").items() if name in wanted}

    def _build_imagenet(self, num_channels: int) -> "Encoder | None":
        """The encoder that ImageNet made, where it is asked for and its weights are at hand."""
        from cytoclr.learn import build_imagenet_encoder

        settings = self.settings.embed
        if settings.imagenet is None:
            return None
        try:
            return build_imagenet_encoder(settings, num_channels, self.settings.train.transform)
        except MachineError as error:
            logger.warning("The baseline imagenet is left out: %s", error)
            return None

    @property
    def _baselines(self) -> list[str]:
        """What was embedded beside the trained encoder's embeddings."""
        return list(self.stages.read_finished("embed").report["baselines"])

    def _list_epochs(self) -> dict[int, Path]:
        """The encoder of every kept epoch: checkpoints, and the model folder for the last."""
        model = self.folder / "model"
        kept = {int(path.stem.partition("=")[2]): path for path in (model / "checkpoints").glob("epoch=*.ckpt")}
        return dict(sorted({**kept, int(read_json(model / "model.json")["epochs"]): model}.items()))

    def _measure_epoch(self, encoder: Path, wells_path: Path) -> dict[str, float | None]:
        """Embed and profile with an epoch's encoder, keep the wells, and measure them."""
        from cytoclr.evaluate import measure_epoch, score_epoch
        from cytoclr.learn import embed, load_encoder
        from cytoclr.profiles import profile

        settings, seed = self.settings, self.settings.seed
        crops, cells = self._crops, self._cells
        embeddings = embed(
            crops, cells, load_encoder(encoder, crops), settings.embed, device=settings.device, progress=self.progress
        )
        profiles = profile(embeddings, settings.profile)
        write_table(wells_path, profiles.well)
        measured = measure_epoch(profiles.unnormalised, profiles.well, seed=seed)
        if settings.select.by == "nscb" and self._mechanisms is not None:
            measured |= score_epoch(profiles.well, self._mechanisms, settings.evaluate)
        return measured

    def _describe_selection(self) -> dict[str, Any] | None:
        """What hindsight says of the chosen epoch; None where only the last is known, or there was no choice."""
        from cytoclr.evaluate import describe_selection, score_epoch

        if not self._trains:
            return None
        told, epochs = self.stages.read_finished("select").report, read_table(self.folder / "epochs.parquet")
        wells = {int(path.stem): read_table(path) for path in sorted((self.folder / "epochs").glob("*.parquet"))}
        if not wells:
            return None
        scores = {}
        if self._mechanisms is not None:
            settings = self.settings.evaluate
            scores = {epoch: score_epoch(table, self._mechanisms, settings) for epoch, table in wells.items()}
        return describe_selection(epochs, told["selected"], told["by"], scores)

    def _hash_checkpoints(self) -> dict[str, str]:
        hashes = self._hashes("train")
        return {name: sha256 for name, sha256 in hashes.items() if name.startswith("model/checkpoints/epoch=")}

    def _make_probe(self) -> "Probe | None":
        """The probe of treatments that training calls now and then; mechanisms play no part in it."""
        settings = self.settings.train.probe
        if settings.every_n_epochs == 0:
            return None
        root = self.folder if settings.screen is None else self.folder / "probe"
        # norms that several processes share must not be put into training mode in one of them alone
        how = self.settings.embed.model_copy(update={"recalibrate": "none"})
        return partial(_probe_treatments, root, settings, how, self.settings.device, self.settings.seed)


def _probe_treatments(
    root: Path,
    settings: ProbeSettings,
    embed_settings: EmbedSettings,
    device: Literal["auto", "cpu", "gpu"],
    seed: int,
    encoder: "Encoder",
) -> dict[str, float]:
    """Embed the crops under a folder with the encoder as it stands, and predict their treatments."""
    from cytoclr.data.crops import CropStore
    from cytoclr.learn import embed, probe_treatments

    cells = read_table(root / "cells.parquet")
    embeddings = embed(CropStore(root / "crops"), cells, encoder, embed_settings, device=device)
    return probe_treatments(embeddings, classifier=settings.classifier, test_fraction=settings.test_fraction, seed=seed)


def _read_crop_hashes(folder: Path) -> dict[str, str]:
    """The crops' hashes, which whoever cut them has taken."""
    shards = [
        (path.parent, shard)
        for path in (folder / "crops/manifest.json", folder / "probe/crops/manifest.json")
        if path.is_file()
        for shard in read_json(path)["shards"]
    ]
    return {(place / shard["file"]).relative_to(folder).as_posix(): shard["sha256"] for place, shard in shards}


def _of_ready_crops(settings: CropSettings) -> CropSettings:
    """Leave out what needs whole fields: crops to probe on are ready."""
    fields = {"illumination": "none", "border": "drop", "masks": None, "apply_masks": False, "nuclei_channel": None}
    if settings.intensity == "field-percentile":
        fields["intensity"] = "plate-percentile"
    return settings.model_copy(update=fields)


def _values(section: BaseModel, *, leave_out: set[str] | None = None) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude=leave_out)


def _hash_input(path: Path) -> str:
    if not path.is_file():
        raise SettingsError(f"{path}: no such file. Correct the path in the settings.")
    return hash_file(path)


def _hash_model(path: Path | None) -> dict[str, str] | None:
    """Hash a model folder or a checkpoint."""
    if path is None:
        return None
    if not path.exists():
        raise SettingsError(f"{path}: no such model. Correct the path in the settings, or set it to null.")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {file.name: hash_file(file) for file in files if file.suffix in {".safetensors", ".ckpt", ".json", ".pth"}}


def _hash_given_model(path: Path) -> dict[str, str]:
    """Hash what of a model made elsewhere decides embeddings."""
    names = ("encoder.safetensors", "model.json")
    if path.is_dir() and all((path / name).is_file() for name in names):
        return {name: hash_file(path / name) for name in names}
    if path.is_file():
        return {"checkpoint": hash_file(path)}
    raise SettingsError(
        f"embed.model: {path}: no model there. Expected a folder with {' and '.join(names)}, or a .ckpt file; weights "
        "of other programs become one by `cytoclr import-model`."
    )


def _describe_machine() -> dict[str, Any]:
    """Versions and machine, for whoever asks later how a number came about."""
    packages = ("cytoclr", "torch", "pytorch-lightning", "timm", "numpy", "pandas", "scikit-learn", "pyarrow")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "platform": platform.platform(),
        "processor": platform.machine(),
        "threads": os.cpu_count(),
        "stages": dict(STAGES),
    }
