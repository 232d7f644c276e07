"""A small run to report on: six mechanisms in random profiles, and crops of drawn cells."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from browsing import CHROMIUM, FLAGS, Reader
from PIL import Image

from cytoclr.config import AugmentSettings, EvaluateSettings, ReportSettings
from cytoclr.data.crops import CropStore, Shard, open_shard, plate_stem, write_crop_manifest
from cytoclr.evaluate import Baseline, Evaluation, describe_selection, evaluate
from cytoclr.report import ReportInputs, write_report
from cytoclr.tables import TREATMENT, WELL, feature_columns

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

MECHANISMS = [
    "Actin disruptors",
    "Aurora kinase inhibitors",
    "DNA damage",
    "Eg5 inhibitors",
    "Epithelial",
    "Protein synthesis",
]
CHANNELS = ("DNA", "Tubulin", "Actin")
SIZE_PX = 32
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><b>bold</b>",
    "a\"b'c&amp;d",
    "🧪 \u202eevil\u202c",
    "مركب",
    "<br>%{x}",
    "\u2028x",
]


def draw_crops(num_cells: int, kind: int, generator: np.random.Generator) -> np.ndarray:
    """Cells of a kind: a nucleus, and two stains whose width depends on the kind."""
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX] - SIZE_PX / 2
    radius = np.hypot(x, y)[None] * generator.uniform(0.9, 1.2, (num_cells, 1, 1))
    shapes = [np.exp(-((radius / width) ** 2)) for width in (5.0, 8.0 + kind, 14.0 - kind)]
    noise = generator.normal(0, 40, (num_cells, 3, SIZE_PX, SIZE_PX))
    return np.clip(300 + 3000 * np.stack(shapes, axis=1) + noise, 0, 65535).astype(np.uint16)


def make_cells(names: list[str], cells_per_well: int, generator: np.random.Generator) -> pd.DataFrame:
    rows = []
    for batch in range(2):
        for replicate in range(2):
            plate = f"B{batch + 1}_P{replicate + 1}"
            treated = [(name, dose) for i, name in enumerate(names) if i % 2 == batch for dose in (0.1, 1.0)]
            for number, (compound, dose) in enumerate([("DMSO", 0.0)] * 3 + treated):
                for cell in range(cells_per_well):
                    well = f"{'ABCDEFGH'[number // 12]}{number % 12 + 1:02d}"
                    rows.append(
                        {
                            "Metadata_CellID": f"{plate}_{well}_1_{cell}",
                            "Metadata_Plate": plate,
                            "Metadata_Well": well,
                            "Metadata_Batch": f"week {batch + 1}",
                            "Metadata_Compound": compound,
                            "Metadata_Concentration": dose,
                            "Metadata_control_type": "negcon" if compound == "DMSO" else "trt",
                            "Metadata_Site": 1,
                            "Metadata_Object": cell,
                            "x": float(generator.uniform(0, 500)),
                            "y": float(generator.uniform(0, 500)),
                        }
                    )
    return pd.DataFrame(rows)


def blur_profiles(wells: pd.DataFrame, noise: float, generator: np.random.Generator) -> pd.DataFrame:
    """The same wells, their profiles drowned in noise: a baseline."""
    names = feature_columns(wells)
    return wells.assign(**{name: wells[name] + generator.normal(0, noise, len(wells)) for name in names})


def score_run(wells: pd.DataFrame, cells: pd.DataFrame, mechanisms: pd.DataFrame | None) -> Evaluation:
    """Scores as a run has them: all that `evaluate` can tell, of profiles without any training."""
    generator = np.random.default_rng(1)
    names = feature_columns(wells)
    embeddings = cells.drop(columns=["Metadata_Object", "x", "y"]).merge(
        wells[["Metadata_Plate", "Metadata_Well", *names]], on=["Metadata_Plate", "Metadata_Well"]
    )
    count = wells.drop(columns=names).assign(Cells_Count=generator.normal(size=len(wells)))
    epochs = pd.DataFrame({"epoch": [10, 20], "replicate_map": [0.5, 0.7], "effective_rank": [3.0, 9.0]})
    by_epoch = {10: {"nsc": 0.75, "nscb": 0.625}, 20: {"nsc": 0.7, "nscb": None}}
    return evaluate(
        wells,
        mechanisms,
        EvaluateSettings(bootstraps=100, permutations=100),
        seed=0,
        normalisation="plate-mad, whitening",
        unnormalised=blur_profiles(wells, 0.3, generator),
        embeddings=blur_profiles(embeddings, 1.0, generator),
        baselines={
            "untrained": Baseline(blur_profiles(wells, 4.0, generator)),
            "intensities": Baseline(blur_profiles(wells, 1.0, generator)),
            "cell-count": Baseline(count, metric="euclidean"),
            "<i>mine</i>": Baseline(blur_profiles(wells, 0.1, generator), labels_seen="mechanisms"),
        },
        selection=describe_selection(epochs, 20, "replicate-map", by_epoch),
    )


def make_metrics(num_epochs: int) -> list[dict]:
    """Lines as training writes them: a probe before the first epoch, steps, the end of each epoch."""
    lines = [{"event": "probe", "epoch": 0, "step": 0, "probe_accuracy": 0.1, "probe_chance": 0.04}]
    for epoch in range(1, num_epochs + 1):
        for step in range(30 * epoch - 20, 30 * epoch + 1, 10):
            loss = 2.0 + 3.0 * 0.995**step + 0.05 * (step % 3)
            step_line = {"event": "step", "epoch": epoch, "step": step, "train_loss": loss, "learning_rate": 4e-3}
            lines.append({**step_line, "grad_norm": 5.0 * 0.997**step, "cells_per_s": 4100.0, "wait_share": 0.03})
        end = {"event": "epoch", "epoch": epoch, "step": 30 * epoch, "cells_per_s": 4100.0, "wait_share": 0.03}
        losses = {"train_loss": 2.0 + 3.0 * 0.86**epoch, "val_loss": 2.2 + 2.9 * 0.87**epoch, "val_alignment": 0.3}
        shape = {"val_uniformity": -2.0, "embedding_rank": 40.0 - epoch, "embedding_rank_share": 0.2}
        shape |= {"projection_rank": 20.0, "projection_spread": 0.9, "grad_norm": 5.0 * 0.91**epoch}
        lines.append({**end, **losses, **shape})
        if epoch % 5 == 0:
            accuracy = {"probe_accuracy": 0.1 + 0.02 * epoch, "probe_chance": 0.04}
            lines.append({"event": "probe", "epoch": epoch, "step": 30 * epoch, **accuracy})
    return lines


def draw_views() -> bytes:
    """The picture of views as training leaves it: three rows a channel, each brighter than the last."""
    rows = np.repeat(np.arange(9) * 25 + 10, 16)
    file = io.BytesIO()
    Image.fromarray(np.broadcast_to(rows[:, None], (9 * 16, 5 * 16)).astype(np.uint8)).save(
        file, format="WEBP", lossless=True
    )
    return file.getvalue()


def embed_cells(cells: pd.DataFrame, wells: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Each cell near its well's profile."""
    names = feature_columns(wells)
    of_well = cells[WELL].merge(wells[[*WELL, *names]], on=WELL, how="left")[names]
    features = of_well + generator.normal(0, 1.0, of_well.shape)
    return pd.concat([cells.drop(columns=["Metadata_Object", "x", "y"]), features.astype(np.float32)], axis=1)


def make_inputs(
    folder: Path, *, compounds: list[str], mechanism_names: list[str], cells_per_well: int = 12
) -> ReportInputs:
    generator = np.random.default_rng(0)
    cells = make_cells(compounds, cells_per_well, generator)
    kinds = {name: i // 4 % len(mechanism_names) for i, name in enumerate(compounds)}
    shards = []
    for plate, rows in cells.groupby("Metadata_Plate", sort=False):
        crops = np.concatenate([draw_crops(1, kinds.get(name, 0), generator) for name in rows["Metadata_Compound"]])
        name = f"{plate_stem(plate)}.npy"
        with open_shard(folder / name, 3, SIZE_PX, np.dtype(np.uint16)) as writer:
            writer.append(crops)
        shards.append(Shard(name, plate, len(rows), low=(300.0,) * 3, high=(3300.0,) * 3))
    write_crop_manifest(
        folder, shards, channels=CHANNELS, size_px=SIZE_PX, pixel_size_um=0.5, dtype=np.dtype(np.uint16), intensity={}
    )
    about = [name for name in cells.columns if name.startswith("Metadata_")][1:7]
    wells = cells[about].drop_duplicates().reset_index(drop=True)
    centres = generator.normal(size=(len(mechanism_names), 16))
    features = np.array(
        [centres[kinds[name]] if name in kinds else np.zeros(16) for name in wells["Metadata_Compound"]]
    )
    features = features + generator.normal(0, 1.5, features.shape)
    wells[[f"Cells_SSL_{i:04d}" for i in range(16)]] = features
    treatments = wells.drop(columns=about[:3] + about[5:]).groupby(TREATMENT, as_index=False).mean()
    mechanisms = pd.DataFrame(
        [
            {"Metadata_Compound": name, "Metadata_Concentration": dose, "Metadata_MoA": mechanism_names[kinds[name]]}
            for name in compounds
            for dose in (0.1, 1.0)
        ]
    )
    evaluation = score_run(wells, cells, mechanisms)
    return ReportInputs(
        wells=wells,
        treatments=treatments,
        cells=cells,
        crops=CropStore(folder),
        scores=evaluation.scores,
        provenance={"created": "2026-01-01T12:00:00Z", "versions": {"numpy": "2.2.0", "torch": "2.10"}, "threads": 2},
        settings_text="seed: 0\ntrain:\n  epochs: 20\n",
        matches=evaluation.matches,
        activity=evaluation.activity,
        mechanisms=mechanisms,
        embeddings=embed_cells(cells, wells, np.random.default_rng(2)),
        metrics=make_metrics(20),
        views=draw_views(),
        augment=AugmentSettings(),
        warnings=["Plate B1_P1 has 3 untreated wells; TVN asks for 10 or more."],
        left_out=["12 cells nearer than 16 px to an edge."],
    )


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> ReportInputs:
    """24 compounds of six mechanisms at two doses, in two batches of two plates."""
    names = [f"compound {i:02d}" for i in range(24)]
    return make_inputs(tmp_path_factory.mktemp("crops"), compounds=names, mechanism_names=MECHANISMS)


@pytest.fixture(scope="session")
def hostile_inputs(tmp_path_factory: pytest.TempPathFactory) -> ReportInputs:
    """Compounds and mechanisms whose names would harm a page that took them for HTML."""
    names = [f"{HOSTILE[i % len(HOSTILE)]}{i}" for i in range(16)]
    kinds = [HOSTILE[0], HOSTILE[1], HOSTILE[3], HOSTILE[5]]
    return make_inputs(tmp_path_factory.mktemp("hostile"), compounds=names, mechanism_names=kinds, cells_per_well=4)


@pytest.fixture(scope="session")
def report_path(tmp_path_factory: pytest.TempPathFactory, inputs: ReportInputs) -> Path:
    """The report of `inputs`."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, inputs, ReportSettings(), seed=0)
    return path


@pytest.fixture(scope="module")
def engine() -> Iterator["Playwright"]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as engine:
        yield engine


@pytest.fixture(scope="module")
def browser(engine: "Playwright") -> Iterator["Browser"]:
    browser = engine.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, "--disable-gpu"])
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., tuple["Page", list[str]]]]:
    """Open a file in a real browser; what the page says, or asks of a network, is noted."""
    readers: list[Reader] = []

    def open_path(path: Path, **context: object) -> tuple["Page", list[str]]:
        readers.append(Reader(browser, path, **context))
        return readers[-1].page, readers[-1].complaints

    yield open_path
    for reader in readers:
        reader.page.close()
