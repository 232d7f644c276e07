"""Names of image files: a template in the first line, names in the others."""

import contextlib

from cytoclr.data.readers.images import TEMPLATES, find_repeats, find_templates, read_images
from cytoclr.errors import CytoclrError
from fuzz import make_workplace

#: Of one input; more say nothing new.
_MAX_NAMES = 12


def try_one(data: bytes) -> None:
    """Read a folder of files that are called so."""
    template, _, rest = data.decode("utf-8", "surrogateescape").partition("\n")
    # regular expressions are the user's own: there are some that take any time
    if template not in TEMPLATES and "(" in template:
        template = "{plate}/{well}_s{site}_w{channel}.tif"
    with make_workplace() as place:
        for name in rest.split("\n")[:_MAX_NAMES]:
            path = place / name.replace("\0", "").lstrip("/")
            if ".." in path.parts:
                continue
            with contextlib.suppress(OSError):  # no name of a file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        with contextlib.suppress(CytoclrError):
            find_templates(place)
        with contextlib.suppress(CytoclrError):
            find_repeats(place, template=template)
        with contextlib.suppress(CytoclrError):
            read_images(
                place,
                template=template,
                channels=None,
                plate=None,
                keep={},
                plates=None,
                skip_missing=True,
                metadata=None,
                columns={},
                controls=["DMSO"],
                positive_controls=[],
                batch_pattern="^(.*)$",
            )
