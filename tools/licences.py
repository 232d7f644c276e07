"""Refuses an installation in which cytoclr depends on what its own licence (MIT) or a lab's lawyer would not bear.

Looks at every distribution that cytoclr pulls in, with the extras named, not at what tests and benchmarks need. GPL and
AGPL are refused, LGPL and MPL are not: they bind who changes them. A licence that is not known is refused, too, until
somebody has read it and says so in `READ`.

Run::

    python tools/licences.py [--extras h5ad onnx slurm]
"""

import argparse
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REFUSED = re.compile(r"(?<!L)A?GPL|GNU (Affero )?General Public", re.IGNORECASE)
KNOWN = re.compile(
    r"\b(0BSD|Apache|BSD|BSL|CC0|HPND|ISC|LGPL|Lesser General Public|MIT|MPL|Mozilla|PSF|Python Software Foundation|"
    r"Unlicense|Zlib)\b",
    re.IGNORECASE,
)
#: Licences that were read, by the beginning of a distribution's name: what they allow.
READ = {
    "cuda-": "NVIDIA's runtime, which torch brings for GPUs: may be used and passed on with it",
    "nvidia-": "the same",
}


def main() -> int:
    """Print what is refused; return 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="*", default=["h5ad", "onnx", "slurm"])
    found = dict(walk("cytoclr", parser.parse_args().extras))
    refused = list(judge(found))
    sys.stdout.write("".join(f"{line}\n" for line in [*refused, f"{len(found)} licences looked at"]))
    return 1 if refused else 0


def walk(name: str, extras: Iterable[str], seen: set[str] | None = None) -> Iterator[tuple[str, Distribution]]:
    """Go through a distribution and all that it needs, each once; what is not installed is not there."""
    seen = set() if seen is None else seen
    key = canonicalize_name(name)
    if key in seen:
        return
    seen.add(key)
    try:
        distribution = importlib.metadata.distribution(name)
    except PackageNotFoundError:
        return
    yield key, distribution
    for text in distribution.requires or []:
        needed = Requirement(text)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield from walk(needed.name, needed.extras, seen)


def judge(distributions: Mapping[str, Distribution]) -> Iterator[str]:
    """Say of each distribution that is refused, why."""
    for name, distribution in distributions.items():
        licence = spell_licence(distribution)
        alternatives = re.split(r"\bOR\b", licence)
        if all(REFUSED.search(part) for part in alternatives):
            yield f"{name}: {licence}: not to be depended on. Find another, or leave out what needs it."
        elif not KNOWN.search(licence) and not name.startswith(tuple(READ)):
            yield f"{name}: {licence or 'no licence named'}: not known. Read it, and say so in tools/licences.py."


def spell_licence(distribution: Distribution) -> str:
    """Put together what a distribution says of its licence: the expression, or the classifiers, or the first line."""
    told = distribution.metadata
    classifiers = [text.split("::")[-1].strip() for text in told.get_all("Classifier") or [] if "License ::" in text]
    named = [text for text in classifiers if text != "OSI Approved"]
    first_lines = [line.strip() for line in (told.get("License") or "").splitlines() if line.strip()][:2]
    return told.get("License-Expression") or "; ".join(named) or " ".join(first_lines)


if __name__ == "__main__":
    raise SystemExit(main())
