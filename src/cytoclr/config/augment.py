"""Settings of augmentation: the nuisances that a view differs by."""

from pydantic import Field

from cytoclr.config.section import Section

__all__ = ["AugmentSettings"]


class AugmentSettings(Section):
    """How a random view is drawn from a crop; each entry stands for a nuisance that should not matter."""

    min_scale: float = Field(0.8, gt=0.0, le=1.0, description="least share of the crop's area that a view shows")
    rotate: bool = Field(True, description="by any angle: cells have no up")
    flip: bool = True
    strength: float = Field(1.0, ge=0.0, description="multiplies gain, offset, gamma, blur and noise")
    gain: float = Field(0.5, ge=0.0, description="largest |log gain| of a channel: stain, exposure")
    offset: float = Field(0.1, ge=0.0, description="largest shift of a channel: background")
    gamma: float = Field(0.2, ge=0.0, description="largest |log gamma| of a channel")
    blur_px: float = Field(0.8, ge=0.0, description="largest s.d. of a Gaussian blur: focus")
    noise: float = Field(0.05, ge=0.0, description="largest s.d. of Gaussian noise: camera")
