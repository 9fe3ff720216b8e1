"""What the unlabeled images are worth over several split seeds: the final pair against its own phase 0, on the test
split.

    python scripts/benchmarks/gain_over_seeds.py --seeds 0 1 2 3 4
    python scripts/benchmarks/gain_over_seeds.py --seeds 0 1 2 3 4 -- --task semantic-segmentation

Everything after `--` goes to `run_dmt.py`; without more it runs the embedded default. `--split_seed` and `--seed` are
set to each seed in turn. The last lines are the mean gain of the two members and of the ensemble with their standard
errors.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hf_dmt.training.evaluation import PRIMARY_METRIC

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.run_dmt import main as run_dmt


def one_seed(seed: int, flags: list[str]) -> dict[str, Any]:
    """Test figures of phase 0 and of the last phase: a, b, ensemble."""
    with tempfile.TemporaryDirectory() as folder:
        where = ["--output_dir", f"{folder}/run", "--save_strategy", "no", "--disable_tqdm", "true"]
        output = io.StringIO()
        start = time.monotonic()
        with contextlib.redirect_stdout(output):
            code = run_dmt([*flags, "--split_seed", str(seed), "--seed", str(seed), *where])
        if code:
            raise SystemExit(f"run_dmt.py ended with {code} for seed {seed}:\n{output.getvalue()}")
        results = json.loads((Path(folder) / "run" / "dmt_results.json").read_text())
    metric = PRIMARY_METRIC[results["task"]]
    phases = {
        when: {name: results["phases"][index]["test"][name][metric] for name in ("a", "b", "ensemble")}
        for when, index in (("labels alone", 0), ("final", -1))
    }
    return {"seed": seed, "metric": metric, "seconds": round(time.monotonic() - start, 1), **phases}


def with_error(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):+.4f} +- {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    own, flags = sys.argv[1:], []
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    arguments = parser.parse_args(own)
    rows = []
    print("seed   labels alone: a, b, ensemble      final: a, b, ensemble      gain of members   seconds")
    for seed in arguments.seeds:
        row = one_seed(seed, flags)
        rows.append(row)
        before, after = row["labels alone"], row["final"]
        gain = sum(after[name] - before[name] for name in "ab") / 2
        shown = "   ".join(" ".join(f"{value:.3f}" for value in scores.values()) for scores in (before, after))
        print(f"{seed:4d}   {shown}   {gain:+.3f}   {row['seconds']:.0f}", flush=True)
    members = [sum(row["final"][name] - row["labels alone"][name] for name in "ab") / 2 for row in rows]
    ensemble = [row["final"]["ensemble"] - row["labels alone"]["ensemble"] for row in rows]
    if arguments.json:
        arguments.json.write_text(json.dumps({"flags": flags, "rows": rows}, indent=2) + "\n")
    print(f"members  {with_error(members)} {rows[0]['metric']} over {len(rows)} seeds")
    print(f"ensemble {with_error(ensemble)}")


if __name__ == "__main__":
    main()
