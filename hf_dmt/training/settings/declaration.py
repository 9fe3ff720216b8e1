"""How a setting is declared: once, as a dataclass field, from which everything else is derived.

    gamma1: float = setting(5.0, "Exponent of the weight if student and teacher agree.", group="weights", least=0)

This line defines the argument of `DMTTrainingArguments`, its validation, its line in `--help` with the default of each
task, its entry in `dmt_results.json` and its row in docs/settings.md. `declared(Knobs)["gamma1"]` returns the
`Setting`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass
from functools import cache
from typing import Any, get_origin, get_type_hints

_WORDS = {"true": True, "false": False, "auto": None, "none": None}


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting.

    Attributes:
        name: of the field, the flag and the entry in the results.
        help: one or two sentences; choices are in backticks.
        group: its heading in `--help` and in docs/settings.md.
        default: for classification.
        pixels: default for segmentation, if it differs.
        kind: the type of the value, or of one item of a list.
        is_list: a list of values.
        method: part of the method (a knob): None means the preset's value, or else the task's default.
        choices: all valid values, if they are a few words.
        least, above, most, below: the ends of the range, inclusive or exclusive; infinity is never valid.
        hint: the reason for the range or a suggestion, for the error message.
    """

    name: str
    help: str
    group: str
    default: Any
    pixels: Any
    kind: type
    is_list: bool
    method: bool
    choices: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    hint: str = ""

    def default_for(self, task: str) -> Any:
        """The value without a flag or a preset."""
        return self.pixels if task == "semantic-segmentation" else self.default

    @property
    def default_text(self) -> str:
        """`5`, or `16 (masks: 4)` if the tasks differ; empty without a default."""
        images, masks = (_text(value) for value in (self.default, self.pixels))
        return images if images == masks else f"{images} (masks: {masks})"

    @property
    def values_text(self) -> str:
        """The valid values: the choices, `true, false`, or the type with its range."""
        if self.choices:
            return ", ".join(self.choices)
        if self.kind is bool:
            return "true, false"
        kind = {int: "whole number", float: "number", str: "text"}[self.kind]
        return ", ".join(filter(None, (f"{kind}s" if self.is_list else kind, self._range_text)))

    @property
    def _range_text(self) -> str:
        lower = f"above {self.above:g}" if self.above is not None else None
        if self.least is not None:
            lower = (
                f"{self.least:g} or more" if self.most is None and self.below is None else f"at least {self.least:g}"
            )
        upper = f"at most {self.most:g}" if self.most is not None else None
        if self.below is not None:
            upper = f"below {self.below:g}"
        return " and ".join(filter(None, (lower, upper)))

    def check(self, value: Any) -> None:
        """Raises ValueError for an unknown choice, a wrong type or a value out of range; None passes."""
        if value is None:
            return
        if self.is_list and not isinstance(value, (list, tuple)):
            raise ValueError(f"`{self.name}` is {value!r}, but must be a list: {self.name}=[{value!r}].")
        for item in value if self.is_list else [value]:
            if self.choices and item not in self.choices:
                raise ValueError(f"`{self.name}` {item!r} does not exist; choose one of: {', '.join(self.choices)}.")
            if self.kind is bool and not isinstance(item, bool):
                raise ValueError(f"`{self.name}` {item!r} is not one of: {self.values_text}.")
            verb = "contains" if self.is_list else "is"
            if self.kind in (int, float) and not is_number(item, whole=self.kind is int):
                raise ValueError(f"`{self.name}` {verb} {item!r}; give a {'whole ' * (self.kind is int)}number.")
            if self.kind in (int, float) and not self._in_range(item):
                finite = " and finite" if self.most is None and self.below is None else ""
                hint = f" ({self.hint})" if self.hint else ""
                raise ValueError(f"`{self.name}` {verb} {item:g}; it must be {self._range_text}{finite}{hint}.")

    def _in_range(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def argument(self) -> tuple[str, Any, Any]:
        """The field for `DMTTrainingArguments`; the default of a knob there is None, which means "not set"."""
        of_items: Any = list[self.kind] if self.is_list else self.kind  # type: ignore[name-defined]
        metadata = {"help": self.help_line.replace("%", "%%")}
        if self.choices:
            metadata["metavar"] = "{" + ",".join(self.choices) + "}"
        default = None if self.method else self.default
        kind = of_items if default is not None else of_items | None
        return self.name, kind, field(default=default, metadata=metadata)

    @property
    def help_line(self) -> str:
        """The help text with the default of each task, as shown by `--help`."""
        return f"{self.help} Default: {self.default_text}." if self.method and self.default_text else self.help


def setting(default: Any, help: str, **more: Any) -> Any:
    """A field of a settings dataclass; `more` are attributes of its `Setting`."""
    return field(default=default, metadata={"help": help, "pixels": default, **more})


@cache
def declared(settings: type) -> dict[str, Setting]:
    """All settings of a dataclass by name, in order."""
    hints = get_type_hints(settings)
    method = settings.__name__ == "Knobs"
    return {part.name: _setting(part, hints[part.name], method=method) for part in fields(settings)}


def as_arguments(name: str, *declarations: type) -> type:
    """A dataclass with the same fields as optional command-line arguments.

    Its metadata are keyword arguments for `argparse`, so the stock `HfArgumentParser` can read it.
    """
    parts = [one.argument() for declaration in declarations for one in declared(declaration).values()]
    return make_dataclass(name, parts)


def without_words(one: Setting, value: Any) -> Any:
    """Convert a value from Python, YAML or the command line: `auto` means "not set", `true` and `false` become booleans
    if the setting is boolean, and a boolean becomes a word if the setting is a word."""
    if one.is_list and isinstance(value, (list, tuple)):
        return tuple(_as_kind(one.kind, item) for item in value)
    if one.kind is bool:
        return without_word(value)
    if one.kind is str and isinstance(value, bool):
        return str(value).lower()
    return value


def without_word(value: Any) -> Any:
    """The value of the words true, false, auto and none (the last two: None); other values are returned unchanged."""
    return _WORDS.get(value.lower(), value) if isinstance(value, str) else value


def _as_kind(kind: type, item: Any) -> Any:
    """Convert an item of a list, such as "0.2" to a number; an item that cannot be converted is returned unchanged."""
    if isinstance(item, bool):
        return item
    try:
        return kind(item)
    except (TypeError, ValueError):
        return item


def is_number(value: Any, *, whole: bool) -> bool:
    """Whether a value is a number (with `whole`, an integer); booleans do not count."""
    return isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)


def _setting(part: Field[Any], hint: Any, *, method: bool) -> Setting:
    is_list = get_origin(hint) in (tuple, list, Sequence)
    kinds = [kind for kind in getattr(hint, "__args__", (hint,)) if kind not in (type(None), Ellipsis)]
    # `bool | str` (true, false or a file) is read as a word.
    kind = str if str in kinds else kinds[0]
    return Setting(name=part.name, default=part.default, kind=kind, is_list=is_list, method=method, **part.metadata)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
