"""The tests of the report see every figure, but for those that are about something else."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def figures_drawn() -> None:
    """In place of the fixture that leaves them out in the other tests."""
