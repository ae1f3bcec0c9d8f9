"""The main job on 400 real galaxies: 5-fold cross-validation from the command line, several seeds, beside the baselines of the same folds.

    GALAXY_CNN_REAL=... python benchmarks/real_sample.py [--seeds 0 1 2] [--out results/real_sample.json]

Each seed deals other folds and starts from other weights. What is run is `galaxy-cnn train SURVEY --folds 5` with every default, then
`galaxy-cnn evaluate`. The density figure of the first seed goes beside the numbers.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from galaxy_cnn.survey import read_json, write_json

COMMAND = Path(sys.executable).with_name("galaxy-cnn")


def one_seed(sample, seed, folder):
    "Metrics of one cross-validation, and its seconds"
    run, began = folder / f"seed{seed}", time.perf_counter()
    subprocess.run([COMMAND, "train", sample, "--out", run, "--folds", "5", "--seed", str(seed)], check=True)
    seconds = time.perf_counter() - began
    subprocess.run([COMMAND, "evaluate", run], check=True)
    found, card = read_json(run / "metrics.json"), read_json(run / "model.json")
    return {"seed": seed, "train_seconds": round(seconds), "epochs": card["recipe"]["epochs"], "precision": card["precision"],
            **{k: found[k] for k in ("sky", "split", "n", "arch", "tta")}, **found["targets"]["metallicity"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results/real_sample.json"))
    args = parser.parse_args()
    sample = Path(os.environ["GALAXY_CNN_REAL"]) / "sdss_sample"
    with tempfile.TemporaryDirectory() as folder:
        runs = [one_seed(sample, seed, Path(folder)) for seed in args.seeds]
        shutil.copy(Path(folder) / f"seed{args.seeds[0]}" / "figures" / "density.png", args.out.with_name("real_density.png"))
    rmse = {name: [r["baselines"][name]["rmse"]["value"] for r in runs] for name in runs[0]["baselines"]} | {"cnn": [r["cnn"]["rmse"]["value"] for r in runs]}
    summary = {name: {"mean": float(np.mean(v)), "lowest": min(v), "highest": max(v)} for name, v in rmse.items()}
    write_json(args.out, {"what": "5-fold cross-validation on 400 real galaxies, 12 + log(O/H) [dex]", "cores": os.cpu_count(),
                          "rmse_over_seeds": summary, "runs": runs})
    for name, v in summary.items(): print(f"{name:24} RMSE {v['mean']:.4f} ({v['lowest']:.4f} to {v['highest']:.4f}, {len(runs)} seeds)")


if __name__ == "__main__": main()
