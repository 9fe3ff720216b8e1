"""The tests of the report draw every figure, except for tests that are about something else."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def figures_drawn() -> None:
    """Replaces the fixture that leaves the figures out in the other tests."""
