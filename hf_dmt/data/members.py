"""The two members of a pair. Their names are identities: in paths, log keys and cards, never roles."""

from __future__ import annotations

MEMBERS = ("a", "b")
PEER = {"a": "b", "b": "a"}

# Who makes the pseudo labels that each student learns from, by `--labeler`.
TEACHERS = {"peer": PEER, "self": {name: name for name in MEMBERS}, "graph": dict.fromkeys(MEMBERS, "graph")}
