"""Labels that are words: what is most likely one class under two spellings is said."""

from __future__ import annotations

import pytest

from hf_dmt.data.splitting.classes import look_alikes


@pytest.mark.parametrize("other", ["Cat", "cat ", " CAT", "\uff43at", "cat\u00a0"])
def test_two_spellings_of_a_class_are_said(other: str) -> None:
    """Silent: one typed 'Cat' among a thousand 'cat' became a class of its own, never learned and never predicted."""
    (warning,) = look_alikes(["cat", other, "dog"])
    assert repr("cat") in warning and repr(other) in warning and "separate classes" in warning


def test_different_words_are_no_spellings() -> None:
    """Guards against warnings about numbers with zeros in front, and about ordinary names."""
    assert look_alikes(["cat", "cats", "1", "01", "1.0", "sea cat", "seacat"]) == []
