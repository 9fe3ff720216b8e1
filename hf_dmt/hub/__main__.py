"""What a run left in its folder, published at any later time.

python -m hf_dmt.hub push FOLDER OWNER/NAME      the pair with its card and results, after a run without a network
python -m hf_dmt.hub labels FOLDER OWNER/NAME    the pseudo labels of a phase, as a data set
python -m hf_dmt.hub card FOLDER                 only write the card, README.md, again
"""

from __future__ import annotations

import argparse
import sys

from .card import write_card
from .label_set import push_labels
from .push import push_folder
from .repository import open_target


def main(argv: list[str] | None = None) -> int:
    """Run.

    Returns:
        The exit code: 0, or 1 with one message on stderr.
    """
    given = _parser().parse_args(argv)
    try:
        if given.command == "card":
            print(write_card(given.folder, repo_id=given.repo, license=given.license))
            return 0
        where = {"revision": given.revision, "tag": given.tag}
        private = given.private or None
        if given.command == "labels":
            options = {"phase": given.phase, "pair": given.pair, "license": given.license, "private": private}
            commit = push_labels(given.folder, given.repo, **options, **where)
        else:
            name = open_target(given.repo, token=None, private=private)
            commit = push_folder(given.folder, name, **where)
        print(commit.commit_url)
    except (ValueError, OSError) as problem:  # HubError is a ValueError
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hf_dmt.hub", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    push = commands.add_parser("push", help="publish the pair in a folder")
    labels = commands.add_parser("labels", help="publish the pseudo labels of a run as a data set")
    card = commands.add_parser("card", help="write the card of the pair in a folder")
    for command in (push, labels, card):
        command.add_argument("folder", help="output folder of a run, or any folder that holds a pair")
    card.add_argument("repo", nargs="?", help="repository that the examples of use name (default: the folder's name)")
    for command in (push, labels):
        command.add_argument("repo", help="repository on the Hub, owner/name; made if there is none")
        command.add_argument("--private", action="store_true", help="make the repository private when it is made")
        command.add_argument("--revision", help="branch to push to (default: main)")
        command.add_argument("--tag", help="a name for the commit")
    labels.add_argument("--phase", type=int, help="whose labels (default: the last phase)")
    labels.add_argument("--pair", help="repository of the pair that made the labels, for the card to name")
    for command in (labels, card):
        command.add_argument("--license", help="licence that the card states")
    return parser


if __name__ == "__main__":
    sys.exit(main())
