"""cytoclr: SimCLR for image-based cell profiling, from microscope plates to scored treatment profiles.

Every stage is a command (``cytoclr train``) and a function of the same name in :mod:`cytoclr.pipeline`.
"""

from importlib.metadata import version

__version__ = version("cytoclr")
__all__ = ["__version__"]
