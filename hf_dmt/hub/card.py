"""The model card of a pair, generated from the files of its folder, so that it only contains measured figures."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Template

from ..data.builtin import BUILTIN_SETS
from ..data.escaping import code_span, markdown_text
from ..data.files import write_aside
from ..data.members import MEMBERS, SCORED
from ..data.pair_file import PEER_FOLDER, base_of, member_folder, read_pair_file
from ..data.tasks import TASKS
from ..report.by_class import by_class
from ..report.gain import Gain, gain_of, headline, signed
from ..report.panels import PANELS
from ..report.run import Run, read_run, score_of
from ..report.terminal import notes
from .config_file import class_names_of, read_config
from .repository import license_of

CARD_FILE = "README.md"
_TAGS = ("hf-dmt", "semi-supervised-learning", "mutual-learning")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SHOWN_CLASSES, _SHOWN_WEAKEST = 30, 10


def write_card(
    folder: str | Path,
    *,
    repo_id: str | None = None,
    license: str | None = None,
    language: str | list[str] | None = None,
    tags: Sequence[str] = (),
    model_name: str | None = None,
    dataset: str | None = None,
    dataset_tags: str | Sequence[str] = (),
    token: str | None = None,
    to: Path | None = None,
) -> Path:
    """Write `README.md` for the pair saved in `folder`, with the results of its run if there are any.

    Args:
        repo_id: the pair's repository, used in the examples; by default they use the folder's name.
        license: of the weights. By default, if `repo_id` is given, the license that both base models state on the Hub,
            if they agree.
        dataset_tags: ids of data sets on the Hub; None uses the run's data set if it is one.
        to: the folder to write it to; by default the pair's own.

    Returns:
        The file's path.
    """
    folder = Path(folder)
    pair = read_pair_file(folder, str(folder))
    configs = {member: read_config(member_folder(folder, pair, member)) for member in MEMBERS}
    run = read_run(folder) if (folder / "dmt_results.json").is_file() else None
    name = model_name or (repo_id or folder.resolve().name).split("/")[-1]
    bases = {member: _hub_id_of_base(pair, member) for member in MEMBERS}
    licenses = {base: license_of(base, token) for base in bases.values() if base} if repo_id and not license else {}
    data_ids = [dataset_tags] if isinstance(dataset_tags, str) else list(dataset_tags)
    data_name, data_note, data_id = _dataset(run)
    data_name, data_note = (dataset, "") if dataset else (data_name, data_note)
    data_ids = data_ids or ([data_id] if data_id else [])
    scored = _final_scores(run) if run else None
    gain = gain_of(run) if run else None
    classes = by_class(run) if run else None
    metadata = ModelCardData(
        base_model=list(dict.fromkeys(base for base in bases.values() if base)) or None,
        datasets=data_ids or None,
        eval_results=_eval_results(run, scored, gain, pair["primary"], data_ids, data_name + data_note)
        if run
        else None,
        language=language,
        library_name="transformers",
        license=license or _common(licenses, bases),
        metrics=[run.metric] if run and scored else None,
        model_name=name,
        pipeline_tag=TASKS[pair["task"]].pipeline,
        tags=list(dict.fromkeys([*_TAGS, *libraries_of(configs.values()), *tags])),
    )
    text = _template().render(
        card_data=metadata.to_yaml(),
        license=metadata.license,
        title=name,
        repo=repo_id or folder.resolve().name,
        quoted=shlex.quote,
        published=repo_id is not None,
        pair=pair,
        peer="b" if pair["primary"] == "a" else "a",
        peer_folder=PEER_FOLDER,
        members={member: _member(configs[member], pair, member, bases[member]) for member in MEMBERS},
        auto_class=TASKS[pair["task"]].auto_class,
        pipeline_name=TASKS[pair["task"]].pipeline,
        licenses=licenses,
        class_names=class_names_of(configs[pair["primary"]]),
        classes=classes,
        shown_classes=_SHOWN_CLASSES,
        shown_weakest=_SHOWN_WEAKEST,
        run=run,
        dataset=code_span(data_name) + data_note,
        scored=scored,
        gain=gain,
        headline=headline(run) if run else None,
        notes=notes(run, gain) if run and gain else [],
        held_out=_held_out(run) if run else [],
        code=code_span,
        text=markdown_text,
        signed=signed,
        names=SCORED,
        score_of=score_of,
        panels=[one for one in PANELS if one.on_card and (folder / "figures" / f"{one.name}.png").is_file()],
    )
    place = (to or folder) / CARD_FILE
    write_aside(place, str(ModelCard(text)).encode())
    return place


@cache
def _template() -> Template:
    """Compiled once: `ModelCard.from_template` does so for every card."""
    return Template(resources.files(__package__).joinpath("model_card.md.jinja").read_text(encoding="utf-8"))


def _hub_id_of_base(pair: dict[str, Any], member: str) -> str | None:
    """The base model of a member if it was loaded from the Hub; the name of a local folder can look like an id."""
    source, loaded_at = base_of(pair, "base_models", member), base_of(pair, "base_commits", member)
    return source if source and loaded_at and _HUB_ID.fullmatch(source) else None


def _member(config: dict[str, Any], pair: dict[str, Any], member: str, hub_id: str | None) -> dict[str, Any]:
    """The card's facts about one member."""
    at_root = pair["primary"] == member
    source = base_of(pair, "base_models", member) or ""
    if hub_id:
        origin = f"fine-tuned from [{hub_id}](https://huggingface.co/{hub_id})"
    elif source.startswith("tiny:"):
        origin = f"trained from scratch ({code_span(source, cell=True)})"
    else:
        origin = "fine-tuned from a local checkpoint" if source else "of unknown origin"
    classes = config.get("architectures")
    return {
        "type": f"timm {config['architecture']}" if "architecture" in config else config.get("model_type", "?"),
        "architecture": str(classes[0]) if isinstance(classes, list) and classes else "?",
        "origin": origin,
        "commit": base_of(pair, "base_commits", member) if hub_id else None,
        "place": "root of this repository" if at_root else f"`{PEER_FOLDER}/`",
    }


def libraries_of(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Libraries, other than transformers, that loading members with these configurations requires: tags of a card, and
    extras of this package."""
    return ["timm"] if any(config.get("model_type") == "timm_wrapper" for config in configs) else []


def _dataset(run: Run | None) -> tuple[str, str, str | None]:
    """The name of the run's data, a note about it, and its id on the Hub if it has one."""
    given = (run.split.get("dataset") if run else None) or "unnamed data"
    if given in BUILTIN_SETS:
        return given, " (embedded in hf_dmt)", None
    return given, "", run.split.get("dataset_id") if run else None


def _held_out(run: Run) -> list[str]:
    """The roles whose images were held out of the training images: eval, test."""
    return list(run.split.get("held_out") or ())


def _split_name(run: Run, role: str) -> str | None:
    """What the data set calls the images that were scored; None for images held out of its training images."""
    usual = "validation" if role == "eval" else role
    return None if role in _held_out(run) else (run.split.get("splits") or {}).get(role) or usual


def _final_scores(run: Run) -> tuple[str, dict[str, Any]] | None:
    """`(split, scores)` of the exported pair: on the test split, else on eval, else None."""
    scored = [(split, scores) for split in ("test", "eval") if (scores := run.exported(split))]
    return scored[0] if scored else None


def _eval_results(
    run: Run,
    scored: tuple[str, dict[str, Any]] | None,
    gain: Gain | None,
    primary: str,
    data_ids: list[str],
    data_name: str,
) -> list[EvalResult] | None:
    """The scores of a, b and ensemble, and those after the labels alone, for the card's metadata."""
    if scored is None:
        return None
    split, scores = scored
    where = {name: "repository root" if name == primary else f"{PEER_FOLDER}/" for name in MEMBERS}
    titles = {name: f"{name}, {where[name]}" if name in where else "ensemble of both" for name in SCORED}
    figures = {titles[name]: score_of(scores, name, run.metric) for name in SCORED}
    if gain is not None and gain.split == split:
        before = gain.changes[run.metric]
        figures |= {f"{titles[name]}, labels alone": before[name].before for name in gain.names}
    task = TASKS[run.results["task"]].pipeline
    return [
        EvalResult(
            task_type=task,
            dataset_type=data_ids[0] if data_ids else re.sub(r"\W+", "-", data_name.split(" (")[0]),
            dataset_name=data_name,
            dataset_split=_split_name(run, split),
            metric_type=run.metric,
            metric_name=f"{run.metric_name} ({title})",
            metric_value=round(value, 4),
        )
        for title, value in figures.items()
        if value is not None
    ] or None


def _common(licenses: dict[str, str | None], bases: dict[str, str | None]) -> str | None:
    """The license shared by all base models, if every member has a base model that states it."""
    stated = {licenses.get(base) if base else None for base in bases.values()}
    return stated.pop() if len(stated) == 1 else None
