"""The two members of a pair. Their names are identities: in paths, log keys and cards, never roles."""

MEMBERS = ("a", "b")
