"""`hf-dmt push`: publish what a run left in its folder, at any later time.

hf-dmt push FOLDER OWNER/NAME              the pair with its card and results, after a run without a network
hf-dmt push FOLDER OWNER/NAME --labels     the pseudo labels of a phase, as a data set
hf-dmt push FOLDER [OWNER/NAME] --card     publish nothing: only write the card, README.md, again
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..hub.card import write_card
from ..hub.label_set import push_labels
from ..hub.push import push_folder
from ..hub.repository import open_target
from ..training.settings.command_line import UsageError, print_error


def main(argv: Sequence[str] | None = None) -> int:
    """Publish; returns 0, 1 where the folder or the Hub does not allow it, 2 for a mistake in what was given."""
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
            name = open_target(given.repo, token=None, private=private)
            commit = push_folder(given.folder, name, **where)
        print(commit.commit_url)
    except UsageError as problem:
        print_error(str(problem))
        return 2
    except (ValueError, OSError) as problem:  # HubError is a ValueError
        print_error(str(problem))
        return 1
    return 0


def _check(given: argparse.Namespace) -> None:
    """Refuse flags that would do nothing."""
    if given.repo is None and not given.card:
        raise UsageError("Where to? Give the repository on the Hub as owner/name; it is made if there is none.")
    of_labels = [name for name in ("phase", "pair") if getattr(given, name) is not None]
    if of_labels and not given.labels:
        raise UsageError(f"--{of_labels[0]} is about pseudo labels. Add --labels, or leave it out.")
    if given.license is not None and not (given.labels or given.card):
        raise UsageError("--license is for --labels and --card: the run writes the card of a pair, or --card does.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-dmt push",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", help="output folder of a run, or any folder that holds a pair")
    parser.add_argument("repo", nargs="?", metavar="OWNER/NAME", help="repository on the Hub; made if there is none")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--labels", action="store_true", help="the pseudo labels instead of the pair")
    what.add_argument("--card", action="store_true", help="only write the card, with OWNER/NAME in its examples")
    parser.add_argument("--private", action="store_true", help="make the repository private when it is made")
    parser.add_argument("--revision", help="branch to push to (default: main)")
    parser.add_argument("--tag", help="a name for the commit")
    parser.add_argument("--phase", type=int, help="whose labels (default: the last phase)")
    parser.add_argument("--pair", help="repository of the pair that made the labels, for their card to name")
    parser.add_argument("--license", help="license that the card states")
    return parser
