"""Names written by other people in terminals, web pages, model cards and spreadsheets. How a browser shows them is
tested in tests/report."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hf_dmt.data.escaping import (
    code_span,
    csv_cell,
    from_csv_cell,
    markdown_text,
    printable,
    without_tokens,
)

NAMES = [
    "cat",
    "café au lait, 犬",
    "a|b",
    "`code`",
    "``` fence",
    "*bold* _em_ ~~gone~~",
    "![x](http://127.0.0.1:9/x.png)",
    "[link](javascript:alert(1))",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt;",
    "line\nbreak",
    "\x1b]8;;http://x\x1b\\click\x1b]8;;\x1b\\",
    "\x9b31mred",
    "abc\u202ecba",
    "\ud800 half a letter",
    "back\\slash",
    "ends with `",
    "",
]
anything = st.text(alphabet=st.characters(codec=None), max_size=20)


@given(anything)
def test_printable_holds_no_code_for_a_terminal(text: str) -> None:
    """Guards against a class name that clears the screen, sets the window's title, or adds a line of its own to the
    output."""
    shown = printable(text)
    assert len(shown.splitlines()) <= 1 and not [c for c in shown if ord(c) < 32 or 127 <= ord(c) < 160]
    shown.encode("utf-8")


def test_printable_keeps_what_people_write() -> None:
    """Guards against names in other scripts, or emoji made of several code points, being shown as escape sequences."""
    for name in ("犬", "café", "می\u200cخواهم", "👩\u200d🌾", "a b", "-", "O'Brien"):
        assert printable(name) == name
    assert printable("a\x1b[31m\nb\u202e\xa0c") == "a\\x1b[31m\\nb\\u202e c"


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_the_text_and_nothing_else(name: str) -> None:
    """Guards against a name that loads a remote image, or ends its code span, in a model card on the Hub."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    (inline,) = [token for token in parser.parse(f"# x {markdown_text(name)} y") if token.type == "inline"]
    assert {child.type for child in inline.children or ()} <= {"text", "text_special"}
    shown = "".join(child.content for child in inline.children or ())
    assert shown.split() == f"x {printable(name)} y".split()

    (inline,) = [token for token in parser.parse(f"x {code_span(name)} y") if token.type == "inline"]
    code = [child.content for child in inline.children or () if child.type == "code_inline"]
    assert code == [printable(name) or " "]

    table = parser.parse(f"| a | b |\n|---|---|\n| {code_span(name, cell=True)} | {markdown_text(name)} |\n")
    cells = [token for token in table if token.type == "inline"]
    assert len(cells) == 4
    assert [child.content for child in cells[2].children or ()] == [printable(name) or " "]
    assert "".join(child.content for child in cells[3].children or ()).split() == printable(name).split()


@given(anything)
def test_a_cell_comes_back_and_is_no_formula(text: str) -> None:
    """Guards against a cell such as `=HYPERLINK(...)` that runs in a spreadsheet, and against an escaped id that no
    longer names its image."""
    cell = csv_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert from_csv_cell(cell) == text
    if text.isprintable():
        file = io.StringIO()
        csv.writer(file).writerow([cell])
        assert next(csv.reader([file.getvalue().strip("\r\n")])) == [cell]


@pytest.mark.parametrize(
    "message",
    [
        'mapping values are not allowed here in "<unicode string>", line 2, column 25: hub_token: SECRET1234: bad',
        "hub_token: SECRET1234",
        "Unknown argument '--hub_tokn=SECRET1234'",
        '{"api_key": "SECRET1234"',
        "sets hub_token to 'SECRET1234', which cannot be read",
        "argument --seed: invalid int value: 'hf_SECRET1234'",
        "Bearer hf_oauth_SECRET1234 was refused",
        "there is no folder 'https://me:SECRET1234@huggingface.co/a/b'",
        "Couldn't find any data file at /data/https:/me:SECRET1234@huggingface.co/a",
        "'https://host/a.zip?download=true&access_token=SECRET1234' is not a folder",
    ],
)
def test_what_may_be_a_token_is_not_quoted(message: str) -> None:
    """Guards against writing a token to the log of a cluster, which others can read, because of a missing quote in a
    config file."""
    assert "SECRET" not in without_tokens(message) and "***" in without_tokens(message)


@pytest.mark.parametrize(
    "message",
    [
        "there is no token, and without one it cannot be read. Set HF_TOKEN to a token from the settings.",
        "python -m hf_dmt.hub push; hf_dmt 0.1.0 needs tokenizers 0.22",
        "Unknown argument '--hub_tokn'. Did you mean --hub_token?",
        "the token is wrong: log in with `hf auth login`",
        "https://huggingface.co:443/a/b?page=1 and https://host/@me: write to a:b@c",
    ],
)
def test_words_about_tokens_stay(message: str) -> None:
    """Guards against asterisks replacing words in advice about tokens."""
    assert without_tokens(message) == message


def test_what_needs_no_mark_has_none() -> None:
    """Guards against an apostrophe in front of every name, and against numbers that become text."""
    for value in ("cat", "O'Brien", "'quoted'", "", 3, -0.5, None):
        assert csv_cell(value) == value
    assert csv_cell("-1 class") == "'-1 class" and from_csv_cell("'quoted'") == "'quoted'"
