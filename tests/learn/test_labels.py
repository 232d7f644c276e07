"""What is known of cells, as numbers."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from cytoclr.learn.labels import encode_labels
from cytoclr.tables import treatment_names


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["P1", "P10", "P2", "p/1", "1"]),
            st.sampled_from(["A01", "B02", "1/B02"]),
            st.sampled_from(["Week1", "Week2"]),
            st.sampled_from(["DMSO", "taxol", "x 1 µM"]),
            st.sampled_from([0.0, 0.3, 1.0, 0.1 + 0.2]),
        ),
        max_size=30,
    )
)
def test_codes_are_equal_where_names_are(rows: list[tuple]) -> None:
    names = ["Metadata_Plate", "Metadata_Well", "Metadata_Batch", "Metadata_Compound", "Metadata_Concentration"]
    cells = pd.DataFrame(rows, columns=names).astype({"Metadata_Concentration": float})
    labels = encode_labels(cells)
    expected = {
        "plates": [row[0] for row in rows],
        "wells": [row[:2] for row in rows],
        "batches": [row[2] for row in rows],
        "compounds": [row[3] for row in rows],
        "treatments": treatment_names(cells).tolist(),  # 0.3 and 0.1 + 0.2 are one concentration to six digits
    }
    for name, values in expected.items():
        order = {value: code for code, value in enumerate(sorted(set(values)))}
        codes = getattr(labels, name)
        np.testing.assert_array_equal(codes, np.array([order[value] for value in values], dtype=np.int64))
        assert codes.dtype == np.int64
    np.testing.assert_array_equal(labels.take(np.arange(len(rows))[::-1]).wells, labels.wells[::-1])
