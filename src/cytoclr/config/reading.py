"""The strict reader of ``config.yaml``: it names the place of every error."""

import difflib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pydantic
import yaml
from pydantic import BaseModel

from cytoclr.config.presets import PRESETS, apply_preset
from cytoclr.config.screens import ScreenSettings
from cytoclr.config.stages import Settings
from cytoclr.errors import SettingsError
from cytoclr.seed_config import convert_seed_config, is_seed_config

__all__ = ["check_settings", "dump_settings", "parse_text", "parse_yaml", "read_settings"]

logger = logging.getLogger(__name__)


def read_settings(path: Path | str, *, changes: Mapping[str, object] | None = None) -> Settings:
    """Read a config file, ours or the 2020 project's; its relative paths are relative to its own folder.

    `changes` replaces single values: ``{"train.epochs": 3}``.

    Raises
    ------
    SettingsError
        The file is missing, is not plain YAML, has a key twice or a key that does not exist, or a value of the
        wrong type or range. The message gives file, line, key and what was expected.
    """
    path = Path(path)
    value, lines = parse_yaml(path)
    if is_seed_config(value):
        value, notes = convert_seed_config(value, source=str(path), folder=path.parent)
        logger.info("%s is a config of the 2020 project. What each key became:\n  %s", path, "\n  ".join(notes))
    return check_settings(value, source=str(path), folder=path.parent, lines=lines, changes=changes)


def check_settings(
    value: object,
    *,
    source: str,
    folder: Path,
    lines: Mapping[tuple[str, ...], int] | None = None,
    changes: Mapping[str, object] | None = None,
) -> Settings:
    """Turn plain values (as from YAML) into settings; see `read_settings`. `lines` tells where each key stood."""
    places = {keys: f"{source}:{line}" for keys, line in (lines or {}).items()}
    for key, replacement in (changes or {}).items():
        value = _change(value, key.split("."), replacement)
        places[tuple(key.split("."))] = f"--set {key}"
    if isinstance(value, dict):
        if str(value.get("preset", "laptop")) not in PRESETS:
            place = places.get(("preset",), source)
            raise SettingsError(f"{place}: preset: expected one of {', '.join(PRESETS)}; found {value['preset']!r}.")
        value = apply_preset(value)
    try:
        return Settings.model_validate_json(json.dumps(value), context={"folder": folder.absolute()})
    except pydantic.ValidationError as error:
        raise SettingsError(_explain(error, source, places)) from None


def _change(value: object, keys: Sequence[str], replacement: object) -> object:
    if not keys:
        return replacement
    section = value if isinstance(value, dict) else {}
    return {**section, keys[0]: _change(section.get(keys[0]), keys[1:], replacement)}


def dump_settings(settings: Settings) -> str:
    """Write all settings, defaults too, as YAML that `read_settings` takes back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_yaml(path: Path) -> tuple[Any, dict[tuple[str, ...], int]]:
    """Read a YAML file strictly (`parse_text`)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file. Give the path of a config file, as config.yaml.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read as UTF-8 text ({error}).") from None
    return parse_text(text, source=str(path))


def parse_text(text: str, *, source: str) -> tuple[Any, dict[tuple[str, ...], int]]:
    """Parse YAML strictly; return its value, and the line of every key.

    YAML 1.2's core schema: ``1e-3`` is a number, ``no`` and ``2020-01-01`` are texts. Duplicate keys, tags and
    aliases are refused.
    """
    lines: dict[tuple[str, ...], int] = {}
    try:
        depth = 0
        for token in yaml.scan(text):
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if depth > _MAX_DEPTH:
                line = token.start_mark.line + 1
                raise SettingsError(f"{source}:{line}: nested too deeply. Expected sections, keys and values.")
            if isinstance(token, yaml.AliasToken):
                line = token.start_mark.line + 1
                raise SettingsError(f"{source}:{line}: the alias *{token.value}. Write the value out.")
        root = yaml.compose(text, Loader=_CoreLoader)
        return ({} if root is None else _build(root, (), lines, source)), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}" if mark else source
        raise SettingsError(f"{place}: not YAML ({getattr(error, 'problem', error)}).") from None


#: Settings have four levels. What is much deeper takes PyYAML minutes, and then more of the stack than there is.
_MAX_DEPTH = 50
_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


class _CoreLoader(yaml.SafeLoader):
    """PyYAML with YAML 1.2's core schema instead of 1.1's guesses."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's way to begin without 1.1's)


_CORE_SCHEMA = {
    "null": (r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "int": (r"^[-+]?[0-9]+$", list("-+0123456789")),
    "float": (
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
}
for _name, (_pattern, _first) in _CORE_SCHEMA.items():
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _first)

_SCALARS: dict[str, Any] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "str": str,
}


def _build(node: yaml.Node, key: tuple[str, ...], lines: dict[tuple[str, ...], int], source: str) -> Any:
    """Turn a YAML node into plain values, refusing what settings never need."""
    place = f"{source}:{node.start_mark.line + 1}"
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SettingsError(f"{source}:{line}: a key that is no word. Expected the name of a setting.")
            name = str(key_node.value)
            if name in result:
                first = lines[(*key, name)]
                raise SettingsError(f"{source}:{line}: {name} stands twice, first in line {first}. Keep one.")
            lines[(*key, name)] = line
            result[name] = _build(value_node, (*key, name), lines, source)
        return result
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_build(item, (*key, str(i)), lines, source) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
        try:
            return _SCALARS[kind](node.value)
        except ValueError:  # Python reads no whole number of more than 4,300 digits
            raise SettingsError(f"{place}: a number of {len(node.value):,} digits. Expected a shorter one.") from None
    raise SettingsError(f"{place}: the YAML tag {node.tag}. Expected plain values without tags.")


def _explain(error: pydantic.ValidationError, source: str, places: Mapping[tuple[str, ...], str]) -> str:
    sentences = []
    for problem in error.errors():
        keys = tuple(str(part) for part in problem["loc"])
        known = tuple(part for part in keys if part not in _reader_tags() or keys[:1] != ("screen",))
        place = next((places[known[:n]] for n in range(len(known), 0, -1) if known[:n] in places), source)
        name = ".".join(known)
        if problem["type"] == "extra_forbidden":
            names = _field_names(keys)
            close = difflib.get_close_matches(keys[-1], names, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(names)}."
            sentences.append(f"{place}: {name} is not a setting. {hint}")
        elif problem["type"].startswith("union_tag"):
            found = problem["input"].get("reader", "nothing")
            sentences.append(f"{place}: {name}.reader: expected one of {', '.join(_reader_tags())}; found {found!r}.")
        else:
            expected = problem["msg"][0].lower() + problem["msg"][1:]
            sentences.append(f"{place}: {name or 'settings'}: {expected}; found {problem['input']!r}.")
    return "\n".join(sentences)


def _reader_tags() -> list[str]:
    models = get_args(get_args(ScreenSettings)[0])
    return [get_args(model.model_fields["reader"].annotation)[0] for model in models]


def _field_names(keys: Sequence[str]) -> list[str]:
    """Names of the settings beside the last of the keys."""
    section: type[BaseModel] = Settings
    for key in keys[:-1]:
        if key in _reader_tags():
            models = get_args(get_args(ScreenSettings)[0])
            section = next(m for m in models if get_args(m.model_fields["reader"].annotation)[0] == key)
        elif key in section.model_fields:
            annotation = section.model_fields[key].annotation
            candidates = [annotation, *get_args(annotation)]
            section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section)
    return list(section.model_fields)
