"""From embeddings to profiles: aggregate cells into sites, wells and treatments, and normalise on the controls."""

from cytoclr.profiles.aggregate import aggregate_cells, aggregate_rows, aggregate_wells, select_finite
from cytoclr.profiles.normalise import Normaliser, fit_normalisation, name_normalisation, read_normaliser
from cytoclr.profiles.stage import Profiles, list_warnings, profile, profile_wells

__all__ = [
    "Normaliser",
    "Profiles",
    "aggregate_cells",
    "aggregate_rows",
    "aggregate_wells",
    "fit_normalisation",
    "list_warnings",
    "name_normalisation",
    "profile",
    "profile_wells",
    "read_normaliser",
    "select_finite",
]
