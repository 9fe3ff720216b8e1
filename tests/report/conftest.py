"""The tests of the report see every figure, but for those that are about something else."""

import pytest

from hf_dmt.report import figures


@pytest.fixture(scope="module", autouse=True)
def figures_drawn() -> None:
    """In place of the fixture that draws one figure for the other tests."""


@pytest.fixture
def one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "PANELS", figures.PANELS[:1])
