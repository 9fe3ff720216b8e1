"""Labels that are words: two spellings of what is most likely one class give a warning."""

from __future__ import annotations

import pytest

from hf_dmt.data.splitting.class_map import look_alikes


@pytest.mark.parametrize("other", ["Cat", "cat ", " CAT", "\uff43at", "cat\u00a0", "cat\u200b", "\ufeffcat"])
def test_two_spellings_of_a_class_are_said(other: str) -> None:
    """Guards against one mistyped 'Cat' among a thousand 'cat' becoming a class of its own, never learned and never
    predicted, without a warning."""
    (warning,) = look_alikes(["cat", other, "dog"])
    assert repr("cat") in warning and repr(other) in warning and "separate classes" in warning


def test_different_words_are_no_spellings() -> None:
    """Guards against warnings about numbers with leading zeros, and about ordinary names."""
    assert look_alikes(["cat", "cats", "1", "01", "1.0", "sea cat", "seacat"]) == []
