"""The README's Python example runs as it stands; what it is given are the tiny members and a few images."""

import re
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import BitImageProcessor, ResNetConfig, ResNetForImageClassification

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_trains_evaluates_and_exports(tmp_path: Path) -> None:
    """Guards against an example that no longer runs, which is the first code a person copies."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks, "the README shows no Python"
    square = {"height": 16, "width": 16}
    for name in "ab":
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        ResNetForImageClassification(config).save_pretrained(tmp_path / name)
        BitImageProcessor(size={"shortest_edge": 16}, crop_size=square).save_pretrained(tmp_path / name)
    generator = np.random.default_rng(0)
    shades = [Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(40)]
    given = {
        "model_a": str(tmp_path / "a"),
        "model_b": str(tmp_path / "b"),
        "output_dir": str(tmp_path / "run"),
        "labeled": [{"image": image, "label": index % 2} for index, image in enumerate(shades[:10])],
        "unlabeled": [{"image": image} for image in shades[10:30]],
        "validation": [{"image": image, "label": index % 2} for index, image in enumerate(shades[30:])],
    }
    # Fewer passes than the example: what is tested is that every line of it works.
    code = blocks[0].replace(
        "supervised_epochs=20, phase_epochs=2", "supervised_epochs=6, phase_epochs=1, use_cpu=True"
    )
    exec(compile(code, str(README), "exec"), given)
    assert (tmp_path / "run" / "peer" / "model.safetensors").is_file()
    assert given["trainer"].state.global_step == sum(phase.steps for phase in given["trainer"].phases)
