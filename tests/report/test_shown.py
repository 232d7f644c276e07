import numpy as np
import pandas as pd
import pytest

from cytoclr.report import ReportInputs
from cytoclr.report.shown import centre_on_plates, choose_cells, rank_cells
from cytoclr.tables import feature_matrix


def lay_out_cells(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    """Plate, well and compound of each cell."""
    about = pd.DataFrame(rows, columns=["Metadata_Plate", "Metadata_Well", "Metadata_Compound"])
    kind = np.where(about["Metadata_Compound"] == "DMSO", "negcon", "trt")
    return about.assign(Metadata_Concentration=1.0, Metadata_control_type=kind, Metadata_Batch="b")


def test_the_typical_are_those_that_point_where_all_point() -> None:
    cells = lay_out_cells([("P", "A01", "drug")] * 5 + [("P", "B01", "DMSO")] * 10)
    angles = np.concatenate([[0.0, 0.1, -0.1, 2.0, 3.0], np.linspace(0, 2 * np.pi, 10, endpoint=False)])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    typical, untypical = rank_cells(cells, features, each=2)
    # by hand: the controls' mean is nought and the features are of one scale but for a factor, so cosines decide
    of = centre_on_plates(cells, features)[:5]
    cosines = of @ of.mean(axis=0) / np.linalg.norm(of, axis=1)
    order = list(np.argsort(-cosines))
    assert typical["drug", 1.0] == order[:2]
    assert untypical["drug", 1.0] == order[::-1][:2]
    assert untypical["drug", 1.0][0] == 4


def test_plates_are_centred_on_their_controls() -> None:
    rows = [(plate, "A01", "drug") for plate in "PQ"] + [(plate, "B01", "DMSO") for plate in "PQ" for _ in range(10)]
    cells = lay_out_cells(rows)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(22, 3)).astype(np.float32)
    shift = np.where(cells["Metadata_Plate"] == "Q", 100.0, 0.0)[:, None].astype(np.float32)
    np.testing.assert_allclose(centre_on_plates(cells, features + shift), centre_on_plates(cells, features), atol=1e-4)
    controls = centre_on_plates(cells, features)[2:12]
    np.testing.assert_allclose(controls.mean(axis=0), 0, atol=1e-6)


def test_no_cell_is_both_and_few_are_enough() -> None:
    cells = lay_out_cells([("P", "A01", "one"), ("P", "A02", "three"), ("P", "A02", "three"), ("P", "A02", "three")])
    typical, untypical = rank_cells(cells, np.eye(4, dtype=np.float32), each=8)
    assert (len(typical["one", 1.0]), len(untypical["one", 1.0])) == (1, 0)
    assert (len(typical["three", 1.0]), len(untypical["three", 1.0])) == (2, 1)
    assert not set(typical["three", 1.0]) & set(untypical["three", 1.0])


@pytest.mark.parametrize("pictures", [10, 300, 1000])
def test_no_more_pictures_than_asked_for(inputs: ReportInputs, pictures: int) -> None:
    assert inputs.embeddings is not None
    shown = choose_cells(
        inputs.cells,
        feature_matrix(inputs.embeddings),
        per_well=8,
        pictures=pictures,
        generator=np.random.default_rng(0),
    )
    assert len(shown.rows) <= pictures
    assert (np.diff(shown.rows) > 0).all()
    assert list(shown.rows[shown.tiles_of(shown.by_chance)]) == list(shown.by_chance)
    for of in (shown.typical, shown.untypical):
        for (compound, _), rows in of.items():
            assert set(inputs.cells["Metadata_Compound"].iloc[rows]) <= {compound}
            assert list(shown.rows[shown.tiles_of(rows)]) == rows
