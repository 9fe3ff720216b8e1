"""`hf-dmt demo`: upload an image in the browser, and see what each model of a pair predicts and where they disagree.

hf-dmt demo PAIR                      a folder or a repository on the Hub; needs: pip install "hf-dmt[demo]"
hf-dmt demo PAIR --write_space DIR    the same page as a Space: upload DIR as it is
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from ..data.escaping import markdown_text, printable
from ..data.members import MEMBERS, SCORED
from ..data.messages import first_line
from ..data.palette import class_colors
from ..data.reading.decoding import to_rgb
from ..hub.card import libraries_of
from ..hub.offline import fail_fast_offline
from ..hub.repository import PAIR_FILES
from ..models.pair import ModelPair
from ..training.settings.terminal import command_parser, print_error

try:
    import gradio as gr
except ModuleNotFoundError:
    sys.exit('hf-dmt: error: The demo needs Gradio, which is not installed: pip install "hf-dmt[demo]"')

# Gradio's default theme loads fonts from the web; the page should look the same offline.
LOOK: dict[str, Any] = {
    "theme": gr.themes.Default(font="system-ui", font_mono="monospace"),
    "css": "#image img { width: 100%; height: 100%; object-fit: contain }",  # show tiny images enlarged
}
_SHOWN_SIDE = 1024  # pixels; larger photos are shrunk before prediction
_CONTRADICTION = "#e02020"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until interrupted, or write the Space; returns 0, or 2 for invalid arguments."""
    args = _parser().parse_args(argv)
    fail_fast_offline()
    try:
        pair = ModelPair.from_pretrained(args.pair, trust_remote_code=args.trust_remote_code)
        if args.write_space:
            write_space(args.pair, pair, Path(args.write_space))
            print(f"space: {args.write_space}")
            return 0
    except (ValueError, OSError) as problem:
        print_error(str(problem))
        return 2
    try:
        page(pair, Path(args.pair).resolve().name).launch(server_port=args.port, **LOOK)
    except (OSError, OverflowError) as problem:
        why = first_line(problem).rstrip(".")
        print_error(f"The page cannot be served ({why}). Choose another --port, or omit it to get the next free one.")
        return 2
    return 0


def page(pair: ModelPair, title: str) -> gr.Blocks:
    """The page: takes an image, shows the predictions of a, b and the ensemble, and where a and b disagree."""
    pixels = pair.task == "semantic-segmentation"
    colors = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in class_colors(len(pair.class_names)).tolist()]
    # Gradio renders HTML and images in Markdown, so names must be escaped.
    with gr.Blocks(title=printable(title), analytics_enabled=False) as blocks:
        gr.Markdown(
            f"# {markdown_text(title)}\nTwo models that taught each other. Upload an image to see where they disagree."
        )
        with gr.Row():
            image = gr.Image(type="pil", image_mode=None, label="image", elem_id="image", height=360)
            with gr.Column():
                verdict = gr.Markdown(elem_id="verdict")
                if pixels:
                    differ = gr.AnnotatedImage(
                        label="where they disagree",
                        elem_id="differ",
                        height=300,
                        color_map={"different labels": _CONTRADICTION},
                    )
        with gr.Row():
            color_map = dict(zip(pair.class_names, colors, strict=True))
            outputs = [
                gr.AnnotatedImage(label=name, elem_id=name, color_map=color_map)
                if pixels
                else gr.Label(label=name, elem_id=name, num_top_classes=5)
                for name in SCORED
            ]
        if pixels:
            image.change(lambda given: see_pixels(pair, given), image, [*outputs, differ, verdict])
        else:
            image.change(lambda given: see_image(pair, given), image, [*outputs, verdict])
    return blocks


def see_image(pair: ModelPair, image: Image.Image | None) -> list[Any]:
    """Probabilities by class name for a, b and the ensemble, and a sentence on whether they agree."""
    if image is None:
        return [None, None, None, ""]
    found = pair.pipeline().members(image)
    found["ensemble"] = (found["a"] + found["b"]) / 2
    names = pair.class_names
    said = {name: markdown_text(names[int(values.argmax())]) for name, values in found.items()}
    if said["a"] == said["b"]:
        verdict = f"Both say **{said['a']}**."
    else:
        a, b = (f"{name} says **{said[name]}** ({100 * float(found[name].max()):.0f} %)" for name in "ab")
        verdict = f"They disagree: {a}, {b}. At least one of them is wrong."
    return [*(dict(zip(names, found[name].tolist(), strict=True)) for name in SCORED), verdict]


def see_pixels(pair: ModelPair, image: Image.Image | None) -> list[Any]:
    """Label maps of a, b and the ensemble drawn on the image, a map of where a and b differ, and a sentence about
    it."""
    if image is None:
        return [None, None, None, None, ""]
    image = to_rgb(image)
    image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    found = pair.pipeline().members(image)
    found["ensemble"] = found["a"] + found["b"]
    labels = {name: values.argmax(dim=0).numpy() for name, values in found.items()}
    differ = labels["a"] != labels["b"]
    names = pair.class_names
    overlays = [
        (image, [(labels[name] == number, names[number]) for number in np.unique(labels[name])]) for name in SCORED
    ]
    verdict = f"They give different labels to **{100 * differ.mean():.1f} %** of the pixels."
    if differ.any():
        pairs = Counter(zip(labels["a"][differ].tolist(), labels["b"][differ].tolist(), strict=True))
        (a, b), _ = pairs.most_common(1)[0]
        verdict += f" Most often a says **{markdown_text(names[a])}** where b says **{markdown_text(names[b])}**."
    return [*overlays, (image, [(differ, "different labels")]), verdict]


def write_space(source: str, pair: ModelPair, folder: Path) -> None:
    """Write a folder that can be uploaded as a Space: the page, this package, its requirements, and the pair unless it
    is on the Hub.

    Raises:
        ValueError: `folder` is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--write_space {str(folder)!r} is not empty. Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    local, name = Path(source).is_dir(), Path(source).resolve().name if Path(source).is_dir() else source
    if local:
        for path in (path for pattern in PAIR_FILES for path in Path(source).glob(pattern)):
            target = folder / "pair" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    package = Path(__file__).parents[1]
    shutil.copytree(package, folder / "hf_dmt", ignore=shutil.ignore_patterns("__pycache__"))
    where = 'Path(__file__).with_name("pair")' if local else repr(source)
    (folder / "app.py").write_text(
        "from pathlib import Path\n\nfrom hf_dmt import ModelPair\nfrom hf_dmt.commands.demo import LOOK, page\n\n"
        f"page(ModelPair.from_pretrained({where}), {name!r}).launch(**LOOK)\n",
        encoding="utf-8",
    )
    extras = [f'extra == "{name}"' for name in libraries_of(pair.member(name).config.to_dict() for name in MEMBERS)]
    required = [line.partition("; ") for line in metadata.requires("hf-dmt") or ()]
    needed = ["".join(line) for line in required if "extra ==" not in line[2]]
    needed += [line[0] for line in required if line[2] in extras]
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in needed), encoding="utf-8")
    facts = {"title": name.rpartition("/")[2], "sdk": "gradio", "sdk_version": gr.__version__, "app_file": "app.py"}
    settings = yaml.safe_dump(facts if local else {**facts, "models": [source]}, sort_keys=False, allow_unicode=True)
    about = f"Two models for {pair.task} that taught each other, and where they disagree."
    (folder / "README.md").write_text(f"---\n{settings}---\n\n{about}\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("demo", __doc__)
    parser.add_argument("pair", metavar="PAIR", help="output folder of a run, or a repository on the Hub")
    parser.add_argument(
        "--write_space", metavar="DIR", help="write the page as a Space to this folder instead of serving it"
    )
    parser.add_argument("--port", type=int, help="port of the page (default: 7860, or the next free one)")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the models")
    return parser
