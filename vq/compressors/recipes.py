"""Recipes: named sets of options in YAML, shipped in ``compressors/`` or the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vq._data_files import data_path
from vq.codebooks.spec import nearest_names
from vq.compressors.options import CompressOptions
from vq.errors import VqError

DEFAULT = "2bit"


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in data_path("compressors").glob("*.yaml"))


def read_recipe(
    name: str | Path = DEFAULT,
    inside: Mapping[str, Mapping[str, Any]] | None = None,
    **changes: Any,
) -> CompressOptions:
    """Options of a recipe.

    Args:
        name: of a shipped recipe, or the path of a YAML file.
        inside: keys that are changed within options that are mappings, such as ``{"tuning": {"ridge": 0.1}}``; the
            mapping's other keys stay.
        changes: options that replace the recipe's.

    Raises:
        VqError: if there is no such recipe, it is not YAML, or it has an unknown key or a wrong value.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in recipe_names():
            raise VqError(
                f"unknown recipe {str(name)!r}; {nearest_names(str(name), recipe_names())}"
            )
        path = data_path("compressors", f"{name}.yaml")
    values = {**_read(path), **changes}
    for key, more in (inside or {}).items():
        known = values.get(key)
        values[key] = {**known, **more} if isinstance(known, dict) else dict(more)
    return CompressOptions.from_dict(values, f"recipe {name}")


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VqError(f"recipe {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VqError(f"recipe {path}: not valid YAML ({error})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise VqError(f"recipe {path}: expected lines of key: value, got {type(values).__name__}")
    return values
