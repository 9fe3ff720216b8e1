"""The tree of files in docs/architecture.md lists what is there."""

from __future__ import annotations

from tests.tree_of_files import PAGE, with_tree


def test_the_tree_of_files_is_that_of_the_package() -> None:
    """Guards against a page that sends its readers to files that have moved, or does not list the file they look
    for."""
    page = PAGE.read_text(encoding="utf-8")
    assert with_tree(page) == page, "run: python -m tests.tree_of_files"
