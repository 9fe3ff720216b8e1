"""The two members of a pair. Their names are identities, used in paths, log keys and cards; they are not roles."""

from __future__ import annotations

MEMBERS = ("a", "b")
PEER = {"a": "b", "b": "a"}
SCORED = (*MEMBERS, "ensemble")  # whose predictions are scored and compared

# Whose pseudo labels each student learns from, by `--labeler`.
TEACHERS = {"peer": PEER, "self": {name: name for name in MEMBERS}, "graph": dict.fromkeys(MEMBERS, "graph")}
