"""Push the pair in a folder: `python -m hf_dmt.hub FOLDER OWNER/NAME`, for example after a run without a network."""

from __future__ import annotations

import argparse
import sys

from .push import push_folder
from .repository import HubError, open_target


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hf_dmt.hub", description=__doc__)
    parser.add_argument("folder", help="output folder of a run, or any folder that holds a pair")
    parser.add_argument("repo", help="repository on the Hub, owner/name; made if there is none")
    parser.add_argument("--private", action="store_true", help="make the repository private when it is made")
    parser.add_argument("--revision", help="branch to push to (default: main)")
    given = parser.parse_args()
    try:
        name = open_target(given.repo, token=None, private=given.private or None)
        print(push_folder(given.folder, name, revision=given.revision).commit_url)
    except HubError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
