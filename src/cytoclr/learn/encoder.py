"""Backbones: what turns a view into an embedding; and the projection head that the loss looks through."""

import difflib
import itertools
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cytoclr.errors import MachineError, SettingsError

__all__ = ["SeedCnn", "SmallCnn", "build_backbone", "build_projection"]


class SmallCnn(nn.Module):
    """A residual network for small crops on a laptop: a 6x6 stem of stride 4, four stages of 16 to 128 features."""

    def __init__(self, num_channels: int, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.num_features = widths[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(num_channels, widths[0], 6, stride=4, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        inputs = (widths[0], *widths[:-1])
        blocks = [_ResidualBlock(*pair, stride=1 + (pair[0] != pair[1])) for pair in zip(inputs, widths, strict=True)]
        self.stages = nn.Sequential(*blocks)

    def forward(self, views: Float[Tensor, "cell channel height width"]) -> Float[Tensor, "cell feature"]:
        """Embed views."""
        features: Tensor = self.stages(self.stem(views)).mean(dim=(2, 3))
        return features


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, num_inputs: int, num_outputs: int, *, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(num_inputs, num_outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(num_outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_outputs, num_outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(num_outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_inputs != num_outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_inputs, num_outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(num_outputs)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Add the body's output to the shortcut's."""
        return torch.relu(self.body(features) + self.shortcut(features))


class SeedCnn(nn.Module):
    """The four 3x3 convolutions (16, 32, 64, 64), each with ReLU and 2x2 maximum, of the 2020 project."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        widths = (num_channels, 16, 32, 64, 64)
        self.num_features = widths[-1]
        layers: list[nn.Module] = []
        for num_inputs, num_outputs in itertools.pairwise(widths):
            layers += [nn.Conv2d(num_inputs, num_outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, views: Float[Tensor, "cell channel height width"]) -> Float[Tensor, "cell feature"]:
        """Embed views."""
        features: Tensor = self.layers(views).mean(dim=(2, 3))
        return features


def build_backbone(name: str, num_channels: int, *, view_size_px: int, pretrained: bool = False) -> nn.Module:
    """Build a backbone by name; its attribute `num_features` is the length of an embedding.

    Parameters
    ----------
    name
        ``small-cnn``, ``seed-cnn`` or the name of a timm model.
    num_channels
        Channels of a crop, one or more.
    view_size_px
        Height and width of a view; transformers are built for it.
    pretrained
        Begin with timm's weights, which are fetched once; its first layer is adapted to the channels.

    Raises
    ------
    SettingsError
        No backbone has this name, it has no pretrained weights, or it does not take views of this size.
    MachineError
        The weights cannot be fetched.

    Notes
    -----
    Weights are drawn from torch's global generator, as timm draws them: seed it around the call.
    """
    own = {"small-cnn": SmallCnn, "seed-cnn": SeedCnn}
    if name in own:
        if pretrained:
            raise SettingsError(
                f"train.pretrained: {name} has no pretrained weights. Set it to false, or use a timm model."
            )
        network: nn.Module = own[name](num_channels)
        return network
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, [*own, *timm.list_models()], n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else "timm.list_models() names them all."
        raise SettingsError(f"train.backbone: {name!r} is neither small-cnn, seed-cnn nor a timm model. {hint}")
    return _build_timm(name, num_channels, view_size_px, pretrained)


def _build_timm(name: str, num_channels: int, view_size_px: int, pretrained: bool) -> nn.Module:
    about = timm.get_pretrained_cfg(name)
    if pretrained and not (about and about.has_weights):
        raise SettingsError(f"train.pretrained: timm has no weights for {name}. Set it to false.")
    size: dict[str, Any] = {"img_size": view_size_px} if about and about.fixed_input_size else {}
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=pretrained, in_chans=num_channels, num_classes=0, **size
        )
    except OSError as error:
        raise MachineError(
            f"timm's weights of {name} cannot be fetched ({error}). Go online, or set train.pretrained: false."
        ) from error
    except (AssertionError, ValueError, TypeError) as error:
        raise _refuse_size(name, view_size_px, error) from error
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, num_channels, view_size_px, view_size_px))
    except (AssertionError, ValueError, RuntimeError) as error:
        raise _refuse_size(name, view_size_px, error) from error
    return network.train()


def _refuse_size(name: str, view_size_px: int, error: Exception) -> SettingsError:
    return SettingsError(
        f"train.view_size_px: {name} does not take views of {view_size_px} px ({error}). Choose another size."
    )


def build_projection(num_features: int, hidden: int, num_outputs: int) -> nn.Module:
    """Build the projection head: linear, ReLU, linear (Chen et al. 2020, section 2.1)."""
    return nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_outputs))
