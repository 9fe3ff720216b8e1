"""The identity of a run: everything that affects its weights, recorded at the first start and compared on every resume.

Every setting is compared unless `settings/resuming.py` lists it as one that cannot affect the weights. New settings are
therefore compared by default. Images are compared by content, not by name. A resume that differs is refused, with both
values; accepted changes are recorded with the update at which they took effect.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...data.arguments import DataArguments
from ...data.members import MEMBERS
from ...method import Phase
from ...models.pair import ModelPair
from .command_line import ModelArguments
from .methods import resolve
from .resuming import ACCEPTABLE, CADENCE, HARMLESS, PLAN_SETTINGS, PRIVATE

# Of a model's configuration: these describe a file rather than an architecture, or are added when it is saved.
_ABOUT_A_FILE = {"_name_or_path", "transformers_version", "_commit_hash", "dtype", "torch_dtype", "architectures"}


def of_run(
    args: Any,
    knobs: Any,
    phases: Sequence[Phase],
    pair: ModelPair,
    images: Mapping[str, str],
    further: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The identity of what this start would train.

    Args:
        args, knobs: the arguments, and the knobs they resolve to; both are dataclasses.
        images: a hash of contents and labels for each role.
        further: other settings by name, such as the data flags of the command line.

    Returns:
        Plain JSON with `settings`, `plan`, `pair` and `images`.
    """
    resolved = dataclasses.asdict(knobs)
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(args)}
    settings = {**(further or {}), **given, **resolved, "mixed_precision": getattr(args, "mixed_precision", "no")}
    identity = {
        "settings": {name: _plain(value) for name, value in sorted(settings.items()) if name not in PRIVATE},
        "plan": [[phase.index, phase.label_ratio, phase.steps, phase.trains] for phase in phases],
        "pair": {
            "task": pair.task,
            "classes": pair.class_names,
            "image_size": pair.image_size,
            **{name: _member(pair, name) for name in MEMBERS},
        },
        "images": dict(images),
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity))  # in the form in which it is read back
    return plain


def defaults(args: Any, task: str) -> dict[str, Any]:
    """The settings of `of_run` that a start with the same method has if nothing else is given, in the same form."""
    declared = [field for kind in (type(args), DataArguments, ModelArguments) for field in dataclasses.fields(kind)]
    made = {one.name: one.default_factory() for one in declared if one.default_factory is not dataclasses.MISSING}
    values = {one.name: one.default for one in declared} | made | vars(resolve(args.method, task, {}))
    plain: dict[str, Any] = json.loads(json.dumps({name: _plain(value) for name, value in values.items()}))
    return plain


def differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    step: int,
    accepted: Iterable[str],
    defaults: Mapping[str, Any] = {},
) -> Changes:
    """How a resume after `step` updates would differ from the first start.

    Args:
        accepted: names from `ACCEPTABLE`.
        defaults: of this start's settings. One that the first start did not have yet, because it had an earlier
            version of a library, does not differ at its default.

    Raises:
        ValueError: `before` is not an identity.
    """
    allowed = set(accepted)
    if allowed & {"bf16", "fp16"}:
        allowed.add("mixed_precision")  # what they come to
    found = Changes([], [])
    try:
        old, new = dict(before["settings"]), dict(now["settings"])
        looks = new.get("phase_weights") == "best" or bool(new.get("load_best_model_at_end"))
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) == new.get(name) or name in PLAN_SETTINGS:
                continue
            if name not in old and name in defaults and (new[name] or None) == (defaults[name] or None):
                continue  # not given, which the stock class may have turned from None to False
            change = Change(name, old.get(name), new.get(name))
            harmless = name in HARMLESS and not (looks and name in CADENCE)
            (found.allowed if harmless or name in allowed else found.refused).append(change)
        _compare_plans(old, new, before["plan"], now["plan"], step, "phases" in allowed, found)
        for part in ("pair", "images"):
            for name in sorted(before[part].keys() | now[part].keys()):
                if before[part].get(name) != now[part].get(name):
                    what = f"{name} images" if part == "images" else f"model {name}" if name in MEMBERS else name
                    found.refused.append(Change(what, before[part].get(name), now[part].get(name)))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as problem:
        raise ValueError(f"the record of the first start cannot be read ({problem!r})") from problem
    return found


@dataclasses.dataclass(frozen=True)
class Change:
    """A difference; `before` and `now` are plain JSON."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        if isinstance(self.before, dict) and isinstance(self.now, dict):
            keys = [key for key in self.before | self.now if self.before.get(key) != self.now.get(key)]
            parts = (f"{key} was {self.before.get(key)!r}, now {self.now.get(key)!r}" for key in keys)
            return f"{self.name}: {'; '.join(parts)}"
        if self.name.endswith(" images"):
            return f"{self.name}: other contents, labels or order ({self.before or 'none'} and {self.now or 'none'})"
        return f"{self.name}: was {_shown(self.before)}, now {_shown(self.now)}"


@dataclasses.dataclass(frozen=True)
class Changes:
    """`refused` affect the weights and were not accepted; `allowed` do not, or were accepted."""

    refused: list[Change]
    allowed: list[Change]


def refusal(changes: Sequence[Change], where: str) -> str:
    """The error message for a resume that would be a different run."""
    lines = "".join(f"\n  {change}" for change in changes)
    names = [change.name if change.name in ACCEPTABLE else "phases" for change in changes]
    accept = ""
    if all(change.name in ACCEPTABLE or change.name.startswith("later plan") for change in changes):
        accept = f" To continue with the new values: `accept_changes={list(dict.fromkeys(names))}`."
    return (
        f"This differs from the run in {where}, so resuming would mix two runs.{lines}\nUse the settings and images "
        "of the first start, or start a new run in another `output_dir` (`ModelPair.from_pretrained` opens the "
        f"existing models).{accept}"
    )


def _compare_plans(
    old: dict[str, Any],
    new: dict[str, Any],
    before: Sequence[Any],
    now: Sequence[Any],
    step: int,
    longer: bool,
    found: Changes,
) -> None:
    if before == now:
        return
    named = {name: (old.get(name), new.get(name)) for name in PLAN_SETTINGS if old.get(name) != new.get(name)}
    why = "".join(f", `{name}` {_shown(one)} and {_shown(two)}" for name, (one, two) in named.items())
    started = [part for place, part in enumerate(before) if sum(earlier[2] for earlier in before[:place]) < step]
    grown = len(now) >= len(before) and all(
        [one[0], one[1], one[3]] == [two[0], two[1], two[3]] and two[2] >= one[2]
        for one, two in zip(before, now, strict=False)
    )
    kind = "later plan" if grown and now[: len(started)] == started else "plan"
    change = Change(f"{kind} (phase, label ratio, updates, which model trains{why})", list(before), list(now))
    (found.allowed if longer and kind == "later plan" else found.refused).append(change)


def _member(pair: ModelPair, name: str) -> dict[str, Any]:
    """The architecture of a model and what it was made from. Its weights come from the checkpoint."""
    config = pair.member(name).config.to_diff_dict()
    config = {key: value for key, value in config.items() if key not in _ABOUT_A_FILE}
    processor = pair.processor(name).to_dict()
    return {
        "architecture": type(pair.member(name)).__name__,
        "made_from": (pair.metadata.get("base_models") or {}).get(name),
        "config": digest(_plain(config)),
        "processor": digest(_plain(processor)),
    }


def digest(value: Any) -> str:
    """A short hash of plain JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """A setting as JSON, identical in every process and Python version."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [_plain(inner) for inner in value]
        return sorted(parts, key=str) if isinstance(value, (set, frozenset)) else parts
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."
