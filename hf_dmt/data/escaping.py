"""Escape text from untrusted data: one function for each output format.

Class names, file names, ids and titles come from data sets and repositories of others. Each function returns the text
as its reader should see it, whatever it contains:

    printable      a terminal, a log, and the base of all others: no escape codes, no line breaks
    markdown_text  Markdown running text: headings, paragraphs, table cells
    code_span      Markdown code, in running text or (`cell=True`) in a table
    without_tokens a message that quotes user input: anything that may be a token is replaced by stars
    csv_cell       a table for spreadsheets, where `=1+1` would be computed; `from_csv_cell` reads it back
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

# Joiners are invisible, too, but Persian, Hindi and emoji need them.
_JOINERS = "\u200c\u200d"
_TOKENS = re.compile(r"\b(hf_(?:oauth_)?|api_org_)(?!dmt\b)[A-Za-z0-9_\-.]{4,}")
# Values assigned to a name such as hub_token, or to a similar one. In a sentence, "token: " is not an assignment.
_SECRETS = re.compile(
    r"""((?:(?:^|(?<=["'{,\s]))-{0,2}[\w-]*[_-]|^|(?<=["'{,]))(?:tok|secret|passw|api[_-]?key)[\w-]*["']?"""
    r"""(?:\s*[=:]\s*["']?|\s+to\s+["']))([^\s"',;)]+)""",
    re.IGNORECASE | re.MULTILINE,
)
# Of https://user:password@host/a?token=secret, the password and the secret.
_IN_URLS = re.compile(
    r"""(:/{1,2}[^\s/:@"']*:)[^\s/@"']+(?=@)|([?&][\w-]*(?:tok|secret|passw|key|sig)[\w-]*=)[^\s&"']+""", re.IGNORECASE
)
_FORMULA = "=+-@\t\r\uff1d\uff0b\uff0d\uff20"  # the last four: the same signs, full width


def printable(text: Any) -> str:
    """One line without control codes: `\\x1b` and line breaks become visible escapes, other blanks a space.

    Characters that change the text direction count as control codes, because they can make one name look like another.
    """
    text = str(text)
    # Almost every name is plain ASCII, and a report has tens of thousands of letters.
    return text if text.isascii() and text.isprintable() else "".join(_visible(letter) for letter in text)


def is_text(text: str) -> bool:
    """Whether a name is text that can be written down: a file name of other bytes than UTF-8 arrives as surrogates."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def without_tokens(text: str) -> str:
    """Remove everything that looks like a token, is assigned to something called a token, a password or a key, or is
    the password in an address."""
    return _SECRETS.sub(r"\1***", _TOKENS.sub(r"\1***", _IN_URLS.sub(r"\1\2***", text)))


def markdown_text(text: Any) -> str:
    """For Markdown outside code: the text cannot start emphasis, links, images, HTML, mentions, formulas or cells."""
    return re.sub(r"([\\`*_\[\]<>#|~$&!@])", r"\\\1", printable(text))


def code_span(text: Any, *, cell: bool = False) -> str:
    """A Markdown code span with exactly this text.

    Args:
        cell: it is in a table, where a bar ends the cell even within code.
    """
    inside = printable(text) or " "
    if cell:
        inside = inside.replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", inside)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if inside.startswith("`") or inside.endswith("`") else ""
    return f"{fence}{pad}{inside}{pad}{fence}"


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet interprets as a formula; numbers stay numbers.

    The leading apostrophe is the convention of spreadsheets for text.
    """
    if not isinstance(value, str):
        return value
    return f"'{value}" if value.lstrip("'").startswith(tuple(_FORMULA)) else value


def from_csv_cell(text: str) -> str:
    """The value passed to `csv_cell`; text that it would not have written is returned unchanged."""
    return text[1:] if text.startswith("'") and csv_cell(text[1:]) == text else text


def _visible(letter: str) -> str:
    category = unicodedata.category(letter)
    if category == "Zs":
        return " "
    if category in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in _JOINERS:
        return letter.encode("unicode_escape").decode("ascii")
    return letter
