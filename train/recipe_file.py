"""Recipes as TOML files: read, changed by name, printed."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokfilter.artifacts.files import existing_file
from tokfilter.artifacts.limits import MAX_RECIPE
from tokfilter.errors import RecipeError, TokfilterError
from tokfilter.train.built_in import BUILT_IN
from tokfilter.train.recipe import Recipe, config_from_recipe
from tokfilter.train.recipe_settings import checked_value, kind_of, kinds, unknown_setting, value_from_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["changed_recipe", "recipe_for_backbone", "recipe_from_source", "text_from_recipe", "values_from_texts"]


def recipe_from_source(source: str | Path = "default", overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The built-in recipe of that name, or the one in a TOML file; names that a file leaves out have their defaults.

    overrides: values by dotted name, such as ``{"labels.mask_point": "before"}``
    Raises RecipeError: unknown name, wrong type, value out of range, no TOML; DataError: no such file.
    """
    recipe = BUILT_IN.get(str(source))
    if recipe is None:
        recipe = changed_recipe(Recipe(), _values_from_file(Path(source)))
    return changed_recipe(recipe, overrides or {})


def recipe_for_backbone(
    recipe: str | Path | Recipe, changes: Mapping[str, Any], backbone: str | None
) -> tuple[str | Path | Recipe, dict[str, Any]]:
    """Recipe and changes for a backbone that is "frozen" or "trained"; None: as the recipe says. Raises RecipeError."""
    if backbone not in (None, "frozen", "trained"):
        raise RecipeError(f"the backbone is frozen or trained, got {backbone!r:.50}.")
    changed = dict(changes)
    if backbone is not None:
        frozen = backbone == "frozen"
        if changed.setdefault("frozen", frozen) != frozen:
            raise RecipeError(
                f"the backbone is {backbone}, and the setting frozen says {changed['frozen']}: leave one out."
            )
        if frozen and (recipe == "default" or recipe == BUILT_IN["default"]):
            recipe = "frozen"
    return recipe, changed


def changed_recipe(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values, by dotted name. Raises RecipeError."""
    tables: dict[str, dict[str, Any]] = {"": {}}
    for name, value in values.items():
        table, _, key = name.rpartition(".")
        tables.setdefault(table, {})[key] = checked_value(name, value)
    top = tables.pop("")
    recipe = replace(recipe, **top, **{name: replace(getattr(recipe, name), **keys) for name, keys in tables.items()})
    try:
        config_from_recipe(recipe, images=1, reducer=recipe.reducer.sample())
    except (TokfilterError, ValueError) as error:
        raise RecipeError(f"settings of the recipe exclude each other: {error}") from error
    return recipe


def values_from_texts(texts: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` as typed on a command line; ``none`` unsets a setting. Raises RecipeError, BudgetError."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise RecipeError(f"expected NAME=VALUE, such as labels.mask_point=before, got {text!r}.")
        values[name] = value_from_text(kind_of(name), value)
    return values


def text_from_recipe(recipe: Recipe) -> str:
    """The recipe as TOML, with the help of each setting as a comment. ``recipe_from_source`` reads it back."""
    lines, table = [], ""
    for name, kind in kinds().items():
        prefix, _, key = name.rpartition(".")
        if prefix != table:
            lines += ["", f"[{prefix}]"]
            table = prefix
        value = getattr(getattr(recipe, prefix) if prefix else recipe, key)
        extra = f"; {kind.expected}" if kind.choices else f"; {kind.bounds}" if kind.bounds else ""
        setting = f"# {key} =" if value is None else f"{key} = {_toml(value)}"
        lines.append(f"{setting:<30}  # {kind.help}{extra}")
    return "\n".join(lines) + "\n"


def _values_from_file(path: Path) -> dict[str, Any]:
    """Values by dotted name."""
    if path.suffix != ".toml":
        raise RecipeError(
            f"expected a TOML file or one of the built-in recipes {', '.join(BUILT_IN)}, got {str(path)!r}."
        )
    try:
        with existing_file(path, "a recipe").open("rb") as file:
            text = file.read(MAX_RECIPE + 1)
        if len(text) > MAX_RECIPE:
            raise RecipeError(f"{path} must have at most {MAX_RECIPE >> 20} MiB, as every recipe has.")
        content = tomllib.loads(text.decode("utf-8"))
    except RecursionError as error:
        raise RecipeError(f"{path} is no recipe: it is nested too deep.") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of more digits than Python reads
        raise RecipeError(f"{path} is not TOML: {error}. `tokfilter train --print-recipe` prints a recipe.") from error
    return dict(_flat(content))


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
            if not value:
                _table(f"{prefix}{key}")
        else:
            yield f"{prefix}{key}", value


def _table(name: str) -> None:
    """Refuse an empty table of an unknown name; the names in other tables are checked one by one."""
    if not any(known.startswith(f"{name}.") for known in kinds()):
        raise unknown_setting(name)


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)
