"""The intensity rule: exact in counts what NumPy says of the pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytoclr.data.ranges import IntensityRule, add_counts, count_values, find_percentiles, scale_to_bytes
from cytoclr.errors import SettingsError


@given(
    values=st.lists(st.integers(0, 300), min_size=1, max_size=60),
    low=st.floats(0, 49),
    high=st.floats(51, 100),
)
def test_percentiles_of_counts_are_those_of_numpy(values: list[int], low: float, high: float) -> None:
    pixels = np.array([values, values[::-1]], dtype=np.uint16)
    found = find_percentiles(count_values(pixels), (low, high))
    np.testing.assert_allclose(found, np.percentile(pixels, [low, high], axis=1), rtol=1e-12, atol=1e-9)


def test_counts_of_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4096, (3, 5000)).astype(np.uint16)
    parts = [count_values(part) for part in np.split(pixels, [100, 2000], axis=1)]
    together = add_counts(add_counts(parts[0], parts[1]), parts[2])
    np.testing.assert_array_equal(together, count_values(pixels))


def test_a_rule_of_ones_own_needs_a_range_for_each_channel() -> None:
    rule = IntensityRule("fixed", (1.0, 99.0), {"DNA": (100.0, 4000.0)})
    rule.check_channels(["DNA"])
    assert rule.find_fixed(["DNA"], 65535) == ((100.0,), (4000.0,))
    with pytest.raises(SettingsError, match=r"crop\.ranges has DNA; the screen's channels are DNA, Actin"):
        rule.check_channels(["DNA", "Actin"])
    with pytest.raises(SettingsError, match=r"DNA from 5 to 5\. Expected the lower"):
        IntensityRule("fixed", (1.0, 99.0), {"DNA": (5.0, 5.0)}).check_channels(["DNA"])


def test_full_range_is_the_cameras() -> None:
    assert IntensityRule("full-range", (1.0, 99.0)).find_fixed(["DNA"], 4095) == ((0.0,), (4095.0,))


def test_bytes_are_the_range_in_256_steps() -> None:
    crops = np.array([0, 100, 200, 300, 500], dtype=np.uint16).reshape(1, 1, 1, 5)
    stored = scale_to_bytes(crops, np.array([[100.0]]), np.array([[300.0]]))
    assert stored.ravel().tolist() == [0, 0, 128, 255, 255]
