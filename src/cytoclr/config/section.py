"""What all settings share: frozen sections that know no unknown key, and the kinds of values in them."""

import re
from pathlib import Path
from typing import Annotated, no_type_check

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

__all__ = [
    "BatchPattern",
    "FileOrUrl",
    "FilePath",
    "Fraction",
    "IncreasingPercents",
    "Percent",
    "Positive",
    "Section",
    "Tokens",
    "read_list",
]


@no_type_check  # ValidationInfo cannot be checked at run time, as the tests do
def _resolve(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder", Path())
    try:
        return Path(folder / path.expanduser()).resolve()
    except RuntimeError as error:  # no such user, or links in a circle
        raise PydanticCustomError("path", "not a path that leads somewhere ({why})", {"why": str(error)}) from None


@no_type_check
def _resolve_unless_url(place: str, info: ValidationInfo) -> str:
    return place if "://" in place else str(_resolve(Path(place), info))


#: A path; in a config file it is relative to that file's folder.
FilePath = Annotated[Path, AfterValidator(_resolve)]
#: The same, or a URL that fsspec opens: https://…, s3://….
FileOrUrl = Annotated[str, AfterValidator(_resolve_unless_url)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Percent = Annotated[float, Field(ge=0.0, le=100.0)]
Positive = Annotated[int, Field(ge=1)]


def _check_pattern(pattern: str) -> str:
    try:
        num_groups = re.compile(pattern).groups
    except re.error as error:
        raise PydanticCustomError("pattern", "not a regular expression ({why})", {"why": str(error)}) from None
    if num_groups == 0:
        raise PydanticCustomError("pattern", "expected a group, as in '^(.*)$', which makes each plate a batch")
    return pattern


def _check_increasing(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] >= pair[1]:
        raise PydanticCustomError("increasing", "expected the lower percentile first")
    return pair


BatchPattern = Annotated[str, AfterValidator(_check_pattern)]
IncreasingPercents = Annotated[tuple[Percent, Percent], AfterValidator(_check_increasing)]


def read_list(value: object) -> object:
    """Take a single word for a list of one."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _read_texts(values: object) -> object:
    """Take numbers for texts: a channel's token may be 1."""
    if not isinstance(values, dict):
        return values
    return {key: str(value) if type(value) is int else value for key, value in values.items()}


#: Names, and what stands for them in files.
Tokens = Annotated[dict[str, str], BeforeValidator(_read_texts)]


class Section(BaseModel):
    """A frozen group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)
