"""The test Hub against `transformers` and `datasets`, without any code of this package in between.

These libraries take the address from the environment only, so each script runs in a process of its own.
"""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import HubServer

# These tests check the test Hub itself. Run them when it, transformers or datasets change.
pytestmark = pytest.mark.slow

TOKEN = "hf_mine"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(users={"me": TOKEN}) as server:
        yield server


def run(hub: HubServer, home: Path, script: str, **environment: str) -> Any:
    """Run the script in a process whose Hub is this server; returns the last line that it prints, read as JSON."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**plain, **settings, **environment},
        capture_output=True,
        text=True,
        cwd=home,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_transformers_push_load_and_reload_offline(hub: HubServer, tmp_path: Path) -> None:
    """Both models, the pipelines and the card must work through the calls that users make, and again without the
    Hub."""
    pushed = run(
        hub,
        tmp_path,
        """
        import json
        import huggingface_hub
        from huggingface_hub import ModelCard, create_repo, upload_file, upload_folder
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

        sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        for folder in ("pair", "pair/peer"):
            model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes))
            model.save_pretrained(folder)
            ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
        model.push_to_hub("me/single", private=True)
        create_repo("me/pair")
        upload_folder(repo_id="me/pair", folder_path="pair")
        card = ModelCard("---\\nlibrary_name: transformers\\npipeline_tag: image-classification\\n---\\n")
        # Releases before 2 send the card to https://huggingface.co for validation, whatever HF_ENDPOINT says.
        if int(huggingface_hub.__version__.split(".")[0]) >= 2:
            card.push_to_hub("me/pair")
        else:
            upload_file(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id="me/pair")
        print(json.dumps(model.classifier.weight[0].tolist()))
        """,
    )
    assert {"config.json", "model.safetensors"} <= set(hub.repo("me/single").files())
    assert hub.repo("me/single").private and "README.md" in hub.repo("me/pair").files()
    script = """
        import json
        import os
        from PIL import Image
        from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

        load, image = AutoModelForImageClassification.from_pretrained, Image.new("RGB", (9, 9))
        models = [load("me/pair"), load("me/pair", subfolder="peer"), load("me/single")]
        AutoImageProcessor.from_pretrained("me/pair", subfolder="peer")
        # The task is read from the card on the Hub, so it has to be said offline.
        task = "image-classification" if os.environ.get("HF_HUB_OFFLINE") else None
        scores = pipeline(task, "me/pair")(image)
        peer = pipeline("image-classification", "me/pair", model_kwargs={"subfolder": "peer"})
        assert peer.model.classifier.weight[0].tolist() == models[1].classifier.weight[0].tolist()
        print(json.dumps([[m.classifier.weight[0].tolist() for m in models], scores]))
    """
    weights, scores = run(hub, tmp_path, script)
    assert weights[0] != weights[1] == weights[2] == pushed and len(scores) == 3
    hub.requests.clear()
    assert run(hub, tmp_path, script, HF_HUB_OFFLINE="1") == [weights, scores]
    assert not hub.requests


def test_datasets_push_and_load(hub: HubServer, tmp_path: Path) -> None:
    """Images as files and a table as parquet must load with `load_dataset`, as users call it."""
    loaded = run(
        hub,
        tmp_path,
        """
        import json
        import os
        from datasets import Dataset, load_dataset
        from huggingface_hub import create_repo, upload_folder
        from PIL import Image

        for label in ("cat", "dog"):
            os.makedirs(f"files/train/{label}")
            for i in range(2):
                Image.new("RGB", (4, 4), (i, 0, 0)).save(f"files/train/{label}/{i}.png")
        create_repo("me/files", repo_type="dataset")
        upload_folder(repo_id="me/files", folder_path="files", repo_type="dataset")
        files = load_dataset("me/files", split="train")
        Dataset.from_dict({"n": [1, 2, 3]}).push_to_hub("me/table", private=True)
        table = load_dataset("me/table", split="train")
        print(json.dumps([files["label"][:], files[3]["image"].getpixel((0, 0))[0], table["n"][:]]))
        """,
    )
    assert loaded == [[0, 0, 1, 1], 1, [1, 2, 3]]
    assert hub.repo("me/table", "dataset").private
