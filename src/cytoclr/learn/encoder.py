"""Backbones: what turns a view into an embedding; and the projection head that the loss looks through."""

import copy
import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cytoclr.errors import MachineError, SettingsError, list_some

__all__ = ["SeedCnn", "SmallCnn", "Standardised", "build_backbone", "build_imagenet", "build_lean", "build_projection"]


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


def build_backbone(name: str, num_channels: int, *, view_size_px: int, pretrained: bool | Path = False) -> nn.Module:
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
        Begin with timm's weights, which are fetched once, or with those of a ``.safetensors`` file; the first layer is
        adapted to the channels.

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


def _build_timm(name: str, num_channels: int, view_size_px: int, pretrained: bool | Path) -> nn.Module:
    about = timm.get_pretrained_cfg(name)
    if pretrained is True and not (about and about.has_weights):
        raise SettingsError(f"train.pretrained: timm has no weights for {name}. Set it to false.")
    more: dict[str, Any] = {"img_size": view_size_px} if about and about.fixed_input_size else {}
    if isinstance(pretrained, Path):
        if pretrained.suffix != ".safetensors" or not pretrained.is_file():
            raise SettingsError(f"{pretrained}: expected a .safetensors file of timm's weights of {name}.")
        more["pretrained_cfg_overlay"] = {"file": str(pretrained)}
        _check_weights(pretrained, name)
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=bool(pretrained), in_chans=num_channels, num_classes=0, **more
        )
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise SettingsError(f"{pretrained}: not timm's weights of {name} ({str(error).splitlines()[0]}).") from error
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


def _check_weights(path: Path, name: str) -> None:
    """Refuse a file that lacks weights of the model: timm would leave those as they were drawn."""
    wanted = set(timm.create_model(name, num_classes=0).state_dict())
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            missing = sorted(key for key in wanted - set(file.keys()) if not key.endswith("num_batches_tracked"))
    except safetensors.SafetensorError as error:
        raise SettingsError(f"{path}: not a safetensors file ({error}).") from error
    if missing:
        raise SettingsError(
            f"{path}: not timm's weights of {name}: lacks {len(missing)} of {len(wanted)} tensors, "
            f"{list_some(missing)}."
        )


def _refuse_size(name: str, view_size_px: int, error: Exception) -> SettingsError:
    return SettingsError(
        f"train.view_size_px: {name} does not take views of {view_size_px} px ({error}). Choose another size."
    )


class Standardised(nn.Module):
    """A network that was trained on standardised pictures, shown intensities 0..1.

    `mean` and `deviation` have a number a channel, or one for all.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.num_features = network.num_features
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False)

    def forward(self, views: Float[Tensor, "cell channel height width"]) -> Float[Tensor, "cell feature"]:
        """Embed views."""
        features: Tensor = self.network((views - self.mean) / self.deviation)
        return features


def build_imagenet(name: str, num_channels: int, *, weights: Path | None = None) -> tuple[nn.Module, int]:
    """Build a timm model with its ImageNet weights, for pictures with any number of channels; and its view's size, px.

    Colours mean nothing here, so every channel is standardised by the mean of the three colours' statistics, and the
    first layer is adapted as timm does.

    Raises
    ------
    SettingsError
        timm has no such model or no weights of it, or the file does not hold them.
    MachineError
        The weights cannot be fetched.
    """
    about = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    size_px = int(about.input_size[-1]) if about else 224
    network = build_backbone(name, num_channels, view_size_px=size_px, pretrained=weights or True)
    assert about is not None  # build_backbone has refused other names
    mean, deviation = sum(about.mean) / len(about.mean), sum(about.std) / len(about.std)
    return Standardised(network, [mean], [deviation]), size_px


def build_projection(num_features: int, hidden: int, num_outputs: int) -> nn.Module:
    """Build the projection head: linear, ReLU, linear (Chen et al. 2020, section 2.1)."""
    return nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_outputs))


def build_lean(network: nn.Module, views: Float[Tensor, "cell channel height width"]) -> nn.Module:
    """Return a copy of a network for embedding in bfloat16: converted once, not with every minibatch.

    Batch norms are folded into the convolutions before them where that leaves the embeddings of `views` as they are;
    the others stay in float32, so that running statistics keep their digits. On a processor with bf16 units this is
    faster than autocast, which casts every weight for every minibatch and keeps the norms' passes over memory
    (benchmarks/training/embed.py).

    Parameters
    ----------
    network
        In evaluation mode; it stays as it is.
    views
        A few that it is used to, in float32, on its device.
    """
    folded = _fold_norms(network)
    before, after = network(views), folded(views)
    is_same = bool((after - before).norm() <= 1e-3 * before.norm())
    lean = (folded if is_same else copy.deepcopy(network)).to(torch.bfloat16)
    for layer in lean.modules():
        if isinstance(layer, _BatchNorm):
            layer.float()
    return lean.to(memory_format=torch.channels_last)


def _fold_norms(network: nn.Module) -> nn.Module:
    """Copy a network, each batch norm folded into the convolution that is declared just before it.

    Declared is not called: whether the network still computes the same is for the caller to see.
    """
    folded = copy.deepcopy(network)
    for parent in list(folded.modules()):
        for (name, layer), (norm_name, norm) in itertools.pairwise(list(parent.named_children())):
            # not of kinds derived from these, which may do more
            if type(layer) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d or norm.running_mean is None:
                continue
            if norm.num_features == layer.out_channels:
                setattr(parent, name, fuse_conv_bn_eval(layer, norm))
                setattr(parent, norm_name, nn.Identity())
    return folded
