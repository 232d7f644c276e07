"""Settings of augmentation: the nuisances that a view differs by."""

from typing import Any, Literal, no_type_check

from pydantic import Field, model_validator

from cytoclr.config.section import Section

__all__ = ["AUGMENT_PRESETS", "AugmentSettings"]

#: What each preset sets where the user sets nothing; the rest stays at its default, which is ``fluorescence``.
AUGMENT_PRESETS: dict[str, dict[str, Any]] = {
    "fluorescence": {},
    # Everything on, moderately: for screens whose batches differ much, and for long trainings.
    "strong": {
        "min_scale": 0.5,
        "elastic": 0.04,
        "gain": 0.8,
        "offset": 0.15,
        "gamma": 0.4,
        "blur_px": 1.2,
        "gradient": 0.3,
        "drop": 0.1,
        "cut_out": 0.3,
        "noise": 0.08,
        "photon_noise": 0.08,
    },
    # Chen et al. 2020 for crop, jitter's and blur's probability; factors of brightness and contrast within 1 ± 0.2
    # (ColorJitter's default, as the strength was never used) are together a gain of log(1.2²).
    "seed-2020": {
        "min_scale": 0.08,
        "rotate": False,
        "elastic": 0.02,
        "jitter_probability": 0.8,
        "gain": 0.36,
        "offset": 0.05,
        "gamma": 0.0,
        "blur_probability": 0.5,
        "blur_px": 2.0,
        "noise": 0.0,
    },
}


class AugmentSettings(Section):
    """How a random view is drawn from a crop; each entry stands for a nuisance that should not matter."""

    preset: Literal["fluorescence", "strong", "seed-2020"] = Field(
        "fluorescence", description="where the others begin; docs/explanation/augmentation.md"
    )
    min_scale: float = Field(0.8, gt=0.0, le=1.0, description="least share of the crop's area that a view shows")
    rotate: bool = Field(True, description="by any angle: cells have no up")
    flip: bool = True
    elastic: float = Field(0.0, ge=0.0, le=0.25, description="largest bend, as a share of the crop's side")
    strength: float = Field(1.0, ge=0.0, description="multiplies gain, offset, gamma, blur, gradient and noise")
    jitter_probability: float = Field(1.0, ge=0.0, le=1.0, description="share of views with gain, offset and gamma")
    gain: float = Field(0.5, ge=0.0, description="largest |log gain| of a channel: stain, exposure")
    offset: float = Field(0.1, ge=0.0, description="largest shift of a channel: background")
    gamma: float = Field(0.2, ge=0.0, description="largest |log gamma| of a channel")
    blur_probability: float = Field(1.0, ge=0.0, le=1.0, description="share of views that are blurred")
    blur_px: float = Field(0.8, ge=0.0, description="largest s.d. of a Gaussian blur: focus")
    gradient: float = Field(0.0, ge=0.0, description="largest |log gain| at a view's border: uneven light")
    drop: float = Field(0.0, ge=0.0, lt=1.0, description="probability of a channel to be empty: stains that failed")
    cut_out: float = Field(0.0, ge=0.0, le=1.0, description="largest square to be empty, as a share of a view's side")
    noise: float = Field(0.05, ge=0.0, description="largest s.d. of Gaussian noise: camera")
    photon_noise: float = Field(0.0, ge=0.0, description="largest s.d., at intensity 1, of noise that grows with light")

    @model_validator(mode="before")
    @classmethod
    @no_type_check  # values may be anything: pydantic says what is wrong with them
    def _fill_from_preset(cls, values):
        if not isinstance(values, dict):
            return values
        return AUGMENT_PRESETS.get(str(values.get("preset")), {}) | values
