"""Write the reference of settings from their models: ``python docs/write_settings.py > docs/reference/settings.md``."""

import sys
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from cytoclr.config import PRESETS, ScreenSettings, Settings


def main() -> None:
    """Print the page."""
    sys.stdout.write("\n".join(write_page()) + "\n")


def write_page() -> Iterator[str]:
    """Yield the page's lines."""
    yield "# Settings"
    yield ""
    yield "All keys of `config.yaml`, by section. A key that is left out has its default; an unknown key is an error."
    yield "On the command line `--set train.epochs=3` changes one. Written by `docs/write_settings.py`."
    yield ""
    yield "At the top: " + ", ".join(f"`{name}` ({value})" for name, value in top_settings()) + "."
    yield from write_presets()
    for name, field in Settings.model_fields.items():
        if name == "screen":
            for model in get_args(get_args(ScreenSettings)[0]):
                yield from write_section(
                    f"screen, reader: {get_args(model.model_fields['reader'].annotation)[0]}", model
                )
        elif isinstance(field.default, BaseModel):
            yield from write_section(name, type(field.default))


def top_settings() -> Iterator[tuple[str, object]]:
    """Yield the settings that belong to no section."""
    for name, field in Settings.model_fields.items():
        if name != "screen" and not isinstance(field.default, BaseModel):
            yield name, field.default


def write_presets() -> Iterator[str]:
    """Yield what each preset sets."""
    yield "\n## preset\n"
    yield "`preset: gpu`, also at the top, sets what the file does not; a run folder's `config.yaml` has the result."
    yield "\n| preset | sets |\n|---|---|"
    for name, values in PRESETS.items():
        told = ", ".join(f"`{key}: {show(value)}`" for key, value in flatten(values))
        yield f"| `{name}` | {told or 'nothing: the defaults'} |"


def flatten(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every value with its dotted key."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def write_section(title: str, model: type[BaseModel]) -> Iterator[str]:
    """Yield a table of the model's settings, then those of the models in it."""
    yield f"\n## {title}\n\n{model.__doc__}\n\n| key | default | meaning |\n|---|---|---|"
    inner = {}
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            inner[name] = type(field.default)
        elif name != "reader":
            inner.update((name, part) for part in get_args(field.annotation) if is_section(part))
            default = "required" if field.default is PydanticUndefined else f"`{show(field.default)}`"
            about = [field.description or "", list_choices(field.annotation)]
            yield f"| `{name}` | {default} | {'; '.join(filter(None, about))} |"
    for name, section in inner.items():
        yield from write_section(f"{title}.{name}", section)


def is_section(annotation: object) -> bool:
    """Tell a model of settings that may be left out; those of screens have pages of their own."""
    return (
        isinstance(annotation, type) and issubclass(annotation, BaseModel) and "reader" not in annotation.model_fields
    )


def list_choices(annotation: object) -> str:
    """Name the words that a setting may be, where they are fixed."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(annotation))
    return ", ".join(filter(None, map(list_choices, get_args(annotation))))


def show(value: object) -> str:
    """A default as YAML would have it."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value).replace("|", "\\|")


if __name__ == "__main__":
    main()
