"""`hf-dmt push`: publish what a run left in its folder, at any later time.

hf-dmt push FOLDER OWNER/NAME              the pair with its card and results
hf-dmt push FOLDER OWNER/NAME --labels     the pseudo labels of a phase, as a data set
hf-dmt push FOLDER [OWNER/NAME] --card     publish nothing; only rewrite the card, README.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..hub.card import write_card
from ..hub.label_set import push_labels
from ..hub.push import push_folder
from ..hub.repository import HubError, check_name
from ..training.settings.command_line import UsageError
from ..training.settings.terminal import command_parser, print_error


def main(argv: Sequence[str] | None = None) -> int:
    """Publish; returns 0, 1 if the Hub does not allow it, 2 for invalid arguments or a damaged folder."""
    given = _parser().parse_args(list(sys.argv[1:] if argv is None else argv))
    try:
        _check(given)
        if given.card:
            print(write_card(given.folder, repo_id=given.repo, license=given.license))
            return 0
        where = {"revision": given.revision, "tag": given.tag}
        private = given.private or None
        if given.labels:
            options = {"phase": given.phase, "pair": given.pair, "license": given.license, "private": private}
            commit = push_labels(given.folder, given.repo, **options, **where)
        else:
            commit = push_folder(given.folder, given.repo, private=private, **where)
        print(commit.commit_url)
    except (ValueError, OSError) as problem:
        print_error(str(problem))
        return 1 if isinstance(problem, HubError) else 2
    return 0


def _check(given: argparse.Namespace) -> None:
    """Refuse flags that would have no effect, and a name that no repository can have."""
    if given.repo is not None:
        check_name(given.repo)
    if given.repo is None and not given.card:
        raise UsageError(
            "Missing the repository to push to. Give it as owner/name; it is created if it does not exist."
        )
    of_a_push = [name for name in ("private", "revision", "tag") if getattr(given, name)]
    if of_a_push and given.card:
        raise UsageError(f"--{of_a_push[0]} is for a push, and --card publishes nothing. Omit one of them.")
    of_labels = [name for name in ("phase", "pair") if getattr(given, name) is not None]
    if of_labels and not given.labels:
        raise UsageError(f"--{of_labels[0]} applies to pseudo labels. Add --labels, or omit it.")
    if given.license is not None and not (given.labels or given.card):
        raise UsageError(
            "--license needs --labels or --card. (The card of a pair is written by its run, or with --card.)"
        )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("push", __doc__)
    parser.add_argument("folder", help="output folder of a run, or any folder with a pair")
    parser.add_argument(
        "repo", nargs="?", metavar="OWNER/NAME", help="repository on the Hub; created if it does not exist"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--labels", action="store_true", help="publish the pseudo labels instead of the pair")
    what.add_argument("--card", action="store_true", help="only write the card, using OWNER/NAME in its examples")
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_argument("--revision", help="branch to push to (default: main)")
    parser.add_argument("--tag", help="tag for the commit")
    parser.add_argument("--phase", type=int, help="phase of the labels (default: the last one)")
    parser.add_argument("--pair", help="repository of the pair that made the labels, to be named in the card")
    parser.add_argument("--license", help="license for the card")
    return parser
