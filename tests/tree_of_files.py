"""The tree of files in docs/architecture.md: one line per file, its first docstring sentence, in the order data flows.

`python -m tests.tree_of_files` writes it anew. Files keep their order on the page; a new one goes to the end of its
folder, from where it can be moved.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- files: begin -->", "<!-- files: end -->"


def subject(file: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)`\"'])\. (?=[A-Z`])", first)[0].rstrip(".?")


def tree(page: str) -> str:
    """The folders as headings and their files as lists, in the page's order."""
    package = ROOT / "hf_dmt"
    listed = re.findall(r"^- \[`([\w/.]+)`\]", page, re.M)
    known = {name: number for number, name in enumerate(listed)}
    folders: dict[str, list[str]] = {}
    for name in listed:
        folders.setdefault(str(Path(name).parent), [])
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        if file.name != "__init__.py":
            folders.setdefault(str(Path(name).parent), []).append(name)
    parts = []
    for folder, names in folders.items():
        if not names:
            continue
        title = "" if folder == "." else folder
        heading = f"### hf_dmt/{title}\n\n{subject(package / folder / '__init__.py')}.\n"
        lines = [
            f"- [`{name}`](../hf_dmt/{name}): {subject(package / name)}."
            for name in sorted(names, key=lambda name: known.get(name, len(known)))
        ]
        parts.append("\n".join([heading, *lines, ""]))
    return "\n".join(parts)


def with_tree(page: str) -> str:
    """The page with its tree written anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tree(page)}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_tree(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
