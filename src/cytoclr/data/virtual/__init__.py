"""The virtual screen: a simulator of microscope plates with planted mechanisms, doses and nuisances."""

from cytoclr.data.virtual.layout import CONTROL, POSITIVE_CONTROL
from cytoclr.data.virtual.screen import PIXEL_SIZE_UM, VirtualScreen, simulate_field, simulate_screen

__all__ = ["CONTROL", "PIXEL_SIZE_UM", "POSITIVE_CONTROL", "VirtualScreen", "simulate_field", "simulate_screen"]
