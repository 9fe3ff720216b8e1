import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """Official results by case name."""
    cases: dict[str, Any] = json.loads((GOLDEN / "golden.json").read_text())["cases"]
    return cases


@pytest.fixture(scope="session")
def golden_tensors() -> dict[str, Tensor]:
    """Official inputs, gradients and weights by `<case>.<what>`."""
    return load_file(GOLDEN / "golden.safetensors")


@pytest.fixture(scope="session")
def paper_golden() -> dict[str, Any]:
    """Official results of the cases whose inputs are RandomState streams."""
    cases: dict[str, Any] = json.loads((GOLDEN / "paper_golden.json").read_text())
    return cases
