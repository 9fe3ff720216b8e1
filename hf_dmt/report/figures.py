"""Render panels: PNG for the card, and SVG that takes the colors of the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ..data.files import write_aside
from .panels import COLORS, MOST_BARS, PANELS, Panel
from .run import Run, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_INCHES = (4.0, 2.7)

_STYLE: Any = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "text.color": COLORS["ink"],
    "axes.labelcolor": COLORS["muted"],
    "axes.edgecolor": COLORS["grid"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": COLORS["grid"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "xtick.color": COLORS["grid"],
    "ytick.color": COLORS["grid"],
    "xtick.labelcolor": COLORS["muted"],
    "ytick.labelcolor": COLORS["muted"],
    "svg.fonttype": "none",  # text stays text: small files, searchable, accessible
    "svg.hashsalt": "hf_dmt",  # the same run gives the same file
}


def write_figures(folder: str | Path) -> list[Path]:
    """Write the figures of the model card, `figures/*.png`, to a run's folder; those without data are omitted.

    Raises:
        ValueError: the folder contains no run.
    """
    run = read_run(folder)
    written = []
    for panel in PANELS:
        if not panel.on_card:
            continue
        with _drawn(panel, run) as figure:
            if figure is None:
                continue
            figure.suptitle(panel.title, fontsize=10, x=0.02, ha="left")
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
        path = run.folder / "figures" / f"{panel.name}.png"
        write_aside(path, buffer.getvalue())
        written.append(path)
    return written


def svg_figures(run: Run) -> dict[str, str]:
    """`<svg>` elements by panel name, for a page that defines the colors as CSS variables (`--a`, `--ink`, ...)."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    drawn = {}
    for panel in PANELS:
        with _drawn(panel, run) as figure:
            if figure is None:
                continue
            buffer = io.BytesIO()
            # `savefig` draws everything twice: the first time only for the layout, which the second draw makes anyway.
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
        drawn[panel.name] = _for_page(buffer.getvalue(), panel)
    return drawn


@contextmanager
def _drawn(panel: Panel, run: Run) -> Iterator[Figure | None]:
    # Imported here because it takes half a second, which `import hf_dmt` should not. No pyplot: it has global state and
    # may look for a display.
    import matplotlib
    from matplotlib.figure import Figure

    many_bars = panel.name == "labels_per_class" and 8 < len(run.class_names) <= MOST_BARS
    height = 0.9 + 0.2 * len(run.class_names) if many_bars else _INCHES[1]
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Class names may be in any script; browsers have the glyphs that this font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(_INCHES[0], max(_INCHES[1], height)), facecolor="none", layout="constrained")
        axes = figure.add_subplot()
        yield figure if panel.draw(axes, run) else None


def _for_page(svg: bytes, panel: Panel) -> str:
    """Prepare an SVG for the page: colors become CSS variables, and ids become unique among figures."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    variables = {color: f"var(--{name})" for name, color in COLORS.items()}
    pattern = re.compile("|".join(variables))
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{panel.name}-{value}")
            elif key == f"{{{_XLINK}}}href" and value.startswith("#"):
                element.set(key, f"#{panel.name}-{value[1:]}")
            else:
                value = value.replace("url(#", f"url(#{panel.name}-")
                element.set(key, pattern.sub(lambda match: variables[match.group()], value))
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", f"{panel.title}. {panel.caption}")
    return ElementTree.tostring(root, encoding="unicode")
