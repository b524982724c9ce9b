"""Recipes as TOML files: read, changed by name, printed. Names, types and ranges are checked."""

import difflib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tokfilter.artifacts.budget import KEEP_HELP, keep_from_text
from tokfilter.artifacts.files import existing_file
from tokfilter.errors import RecipeError, TokfilterError
from tokfilter.train.recipe import BUILT_IN, Recipe, config_from_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["changed_recipe", "recipe_from_source", "text_from_recipe", "values_from_texts"]


@dataclass(frozen=True)
class _Kind:
    """Type and range of a setting.

    kind: int, float, str, "keep" or "stages"
    choices: the values of a str that has a fixed set
    bounds: interval of a number, such as ``(0, 1]``
    """

    kind: type | str
    optional: bool
    choices: tuple[str, ...]
    bounds: str | None
    help: str

    @property
    def expected(self) -> str:
        """The values that fit, for error messages."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        names = {
            int: "a whole number",
            float: "a number",
            "keep": KEEP_HELP,
            "stages": "a list of stages",
        }
        return names[self.kind] + (f" in {self.bounds}" if self.bounds else "")


def recipe_from_source(source: str | Path = "default", overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The built-in recipe of that name, or the one in a TOML file; names that a file leaves out have their defaults.

    overrides: values by dotted name, such as ``{"labels.mask_point": "before"}``
    Raises RecipeError: unknown name, wrong type, value out of range, no TOML; DataError: no such file.
    """
    recipe = BUILT_IN.get(str(source))
    if recipe is None:
        recipe = changed_recipe(Recipe(), _values_from_file(Path(source)))
    return changed_recipe(recipe, overrides or {})


def changed_recipe(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values, by dotted name. Raises RecipeError."""
    tables: dict[str, dict[str, Any]] = {"": {}}
    for name, value in values.items():
        table, _, key = name.rpartition(".")
        tables.setdefault(table, {})[key] = _checked(name, value)
    top = tables.pop("")
    recipe = replace(recipe, **top, **{name: replace(getattr(recipe, name), **keys) for name, keys in tables.items()})
    try:
        config_from_recipe(recipe, images=1)
    except TokfilterError as error:
        raise RecipeError(f"settings of the recipe exclude each other: {error}") from error
    return recipe


def values_from_texts(texts: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` as typed on a command line; ``none`` unsets a setting. Raises RecipeError, BudgetError."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise RecipeError(f"expected NAME=VALUE, such as labels.mask_point=before, got {text!r}.")
        values[name] = _value_from_text(_kind(name), value)
    return values


def text_from_recipe(recipe: Recipe) -> str:
    """The recipe as TOML, with the help of each setting as a comment. ``recipe_from_source`` reads it back."""
    lines, table = [], ""
    for name, kind in _kinds().items():
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
        content = tomllib.loads(existing_file(path, "a recipe").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
    if not any(known.startswith(f"{name}.") for known in _kinds()):
        raise _unknown(name)


@cache
def _kinds() -> dict[str, _Kind]:
    """All settings by dotted name, in the order in which they are printed."""
    return dict(_settings(Recipe, ""))


def _settings(cls: type, prefix: str) -> Iterator[tuple[str, _Kind]]:
    hints = get_type_hints(cls)
    for item in fields(cls):
        if is_dataclass(hints[item.name]):
            yield from _settings(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", _kind_from_hint(hints[item.name], **item.metadata)


def _kind_from_hint(hint: Any, help: str, bounds: str | None) -> _Kind:
    if get_origin(hint) is Literal:
        return _Kind(str, False, get_args(hint), bounds, help)
    members = set(get_args(hint)) or {hint}
    optional = type(None) in members
    members -= {type(None)}
    if members == {int, float}:
        return _Kind("keep", optional, (), bounds, help)
    (member,) = members
    return _Kind("stages" if get_origin(member) is tuple else member, optional, (), bounds, help)


def _kind(name: str) -> _Kind:
    if name not in _kinds():
        raise _unknown(name)
    return _kinds()[name]


def _unknown(name: str) -> RecipeError:
    known = list(_kinds())
    table = [other for other in known if other.startswith(f"{name}.")]
    if table:
        return RecipeError(f"{name} is a table of a recipe, expected one of its settings: {', '.join(table)}.")
    last = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]]
    near = last or difflib.get_close_matches(name, known, 3, 0.6)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return RecipeError(f"a recipe has no setting {name!r}.{hint} `tokfilter train --print-recipe` lists all names.")


def _value_from_text(kind: _Kind, text: str) -> Any:
    """A value as typed, in the setting's type; text that is not of that type stays text and is refused later."""
    if kind.optional and text.lower() == "none":
        return None
    if kind.kind == "keep":
        return keep_from_text(text)
    if kind.kind == "stages":
        return [part.strip() for part in text.split(",")]
    if kind.kind in (int, float):
        for read in (int, float):
            try:
                return read(text)
            except ValueError:
                continue
    return text


def _checked(name: str, value: Any) -> Any:
    """``value`` in the setting's type. Raises RecipeError with what was expected and got."""
    kind = _kind(name)
    if value is None and kind.optional:
        return None
    fits = _converted(kind, value)
    if fits is None:
        raise RecipeError(f"{name} expects {kind.expected}, got {value!r}.")
    return fits


def _converted(kind: _Kind, value: Any) -> Any:
    """``value`` in the setting's type, or None when it does not fit. A whole number fits where a float is expected."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind.kind == "keep":
        return keep_from_text(value) if isinstance(value, str) else value if number and _keep_fits(value) else None
    if kind.kind == "stages":
        names = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
        return tuple(value) if names and value else None
    if kind.kind is str:
        return value if isinstance(value, str) and (not kind.choices or value in kind.choices) else None
    if not number or (kind.kind is int and not isinstance(value, int)) or not math.isfinite(value):
        return None
    fits = kind.bounds is None or _inside(value, kind.bounds)
    return (float(value) if kind.kind is float else value) if fits else None


def _keep_fits(value: float) -> bool:
    return value >= 1 if isinstance(value, int) else 0 < value <= 1


def _inside(value: float, bounds: str) -> bool:
    low, high = (float(part) for part in bounds[1:-1].split(","))
    above = value >= low if bounds[0] == "[" else value > low
    below = value <= high if bounds[-1] == "]" else value < high
    return above and below


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
