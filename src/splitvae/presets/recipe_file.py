"""A recipe as a YAML file: what `train --config` reads and `--print-config` writes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from splitvae.config import APPLIES, NEEDS, OF_MODELS, TrainConfig, check_names, idle, without_retired
from splitvae.errors import InputError


def read_recipe(path: Path) -> tuple[str | None, dict[str, Any]]:
    """The preset that a file names, None if it names none, and the options in it.

    Args:
        path: a YAML mapping of ``preset`` and fields of ``TrainConfig``, dashes or underscores in their names; or the
            ``config.json`` of a run, whose recipe that is.

    Raises:
        InputError: it cannot be read, is no such mapping, or has an unknown option, with the nearest known one.
    """
    try:
        content = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read --config {path}: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"--config {path}{where} is not YAML: {getattr(error, 'problem', error)}.") from error
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise InputError(f"--config {path} holds no options; write lines such as `epochs: 20`.")
    if isinstance(content.get("config"), Mapping) and "preset" in content:  # the record of a run
        values = _checked(content["config"], path)
        recorded = TrainConfig(**values)
        content = {"preset": content["preset"], **_applicable(recorded)}
    values = {key.replace("-", "_"): value for key, value in content.items()}
    preset = values.pop("preset", None)
    if preset is not None and not isinstance(preset, str):
        raise InputError(f"the preset in {path} must be a name, not {preset!r}.")
    return preset, _checked(values, path)


def _checked(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Options that there are, and numbers as their types want them."""
    known = without_retired(dict(values))
    check_names(known, f"--config {path}")
    return {name: _number(name, value) for name, value in known.items()}


def write_recipe(preset: str, config: TrainConfig) -> str:
    """A resolved recipe as YAML; what does not apply to its model or network is left out."""
    return yaml.safe_dump({"preset": preset, **_applicable(config)}, sort_keys=False, allow_unicode=True)


def _applicable(config: TrainConfig) -> dict[str, Any]:
    """The options that mean something to the model and the network; the others may not be asked for."""
    values = config.to_dict()
    for name in APPLIES.keys() - config.network_options():
        values.pop(name)
    for name, models in OF_MODELS.items():
        if config.model not in models:
            values.pop(name)
    for name in NEEDS:
        if idle(name, config):
            values.pop(name, None)
    if config.model != "splitvae":
        values.pop("num_components")
    return values


def _number(name: str, value: Any) -> Any:
    """YAML reads 1e-4 as a word, because it has no point; people write it as a number."""
    if isinstance(value, str) and float in (get_args(hint := get_type_hints(TrainConfig)[name]) or (hint,)):
        try:
            return float(value)
        except ValueError:
            return value
    return value
