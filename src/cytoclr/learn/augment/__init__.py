"""Random views of crops: drawn once as numbers, made by one of two back ends, each cell its own."""

from cytoclr.learn.augment.augmenter import Augmenter

__all__ = ["Augmenter"]
