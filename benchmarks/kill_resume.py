"""Kill a training with SIGKILL at random instants, many times, resume it each time, and compare its weights with those of an uninterrupted run.

    python benchmarks/kill_resume.py [--kills 20] [--galaxies 96] [--epochs 24] [--seed 0] [--out results/kill_resume.json]

Half of the kills come at a random time, half while a temporary file of a checkpoint is on disk, that is, in the middle of a write. fp32 on a CPU, 2 networks (folds),
for Adam and for Ranger. Exit code 1 if any weight differs by more than 1e-6 or history.csv has a gap.
"""
import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file

from galaxy_cnn.files import versions, write_json
from galaxy_cnn.learner import OPTIMIZERS
from galaxy_cnn.mock_images import make_mock

TOLERANCE = 1e-6
THREADS = 1  # a number that differs between two runs changes the order of sums, and with it the last digits
CHILD = f"import sys, torch; torch.set_num_threads({THREADS}); from galaxy_cnn.train import train; train(sys.argv[1], sys.argv[2], **eval(sys.argv[3]))"


def start(survey, out, options):
    "Start a training and wait until it says that it trains"
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", CHILD, str(survey), str(out), repr(options)], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, env=environment)
    for line in child.stdout:
        if " epochs in batches of " in line: break
    return child


def wait_to_kill(child, out, rng, longest):
    "Wait a random time, and every other time then for a checkpoint that is being written; say which"
    time.sleep(rng.uniform(0, longest))
    if rng.random() < 0.5: return "any time"
    while child.poll() is None:
        if any((out / "checkpoint").glob(".last-*")): return "inside a write"
    return "any time"


def killed_run(survey, out, options, kills, rng, longest):
    "Train with up to `kills` kills; returns how each found the run"
    found = []
    while len(found) < kills and not (out / "model.json").exists():
        child = start(survey, out, options | {"resume": out.exists()})
        where = wait_to_kill(child, out, rng, longest)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if child.returncode == -signal.SIGKILL: found.append("half a checkpoint on disk" if any((out / "checkpoint").glob(".last-*")) else where)
        elif child.returncode: raise RuntimeError(child.stderr.read())
    child = start(survey, out, options | {"resume": True})
    if child.wait(): raise RuntimeError(child.stderr.read())
    return found


def compare(whole, killed):
    "Largest difference of a weight, and whether history.csv is the same but for the seconds"
    a, b = (pd.read_csv(p / "history.csv").drop(columns="seconds") for p in (whole, killed))
    weights = [(load_file(f), load_file(killed / "models" / f.name)) for f in sorted((whole / "models").iterdir())]
    difference = max(float((one[k] - two[k]).abs().max()) for one, two in weights for k in one)
    return difference, a.shape == b.shape and bool(np.allclose(a, b, atol=TOLERANCE, rtol=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"kills": 20, "galaxies": 96, "epochs": 24, "seed": 0}.items(): parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, default=Path("results/kill_resume.json"))
    args = parser.parse_args()
    rng, rows = np.random.default_rng(args.seed), []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_mock(folder / "mock", n=args.galaxies, seed=args.seed, workers=1)
        for opt in OPTIMIZERS:
            options = dict(arch="xresnet_tiny", opt=opt, folds=2, epochs=args.epochs, bs=6, precision="fp32", device="cpu", split_by="random")
            begin = time.perf_counter()
            if start(folder / "mock", folder / f"{opt}_whole", options).wait(): raise RuntimeError("The uninterrupted run failed.")
            longest = (time.perf_counter() - begin) / 4
            found, compared = [], []
            while len(found) < args.kills:
                out = folder / f"{opt}_{len(compared)}"
                found += killed_run(folder / "mock", out, options, args.kills - len(found), rng, longest)
                compared.append(compare(folder / f"{opt}_whole", out))
            rows.append({"optimiser": opt, "runs": len(compared), "kills": len(found), "kills_with_half_a_checkpoint_on_disk": found.count("half a checkpoint on disk"),
                         "largest_weight_difference": max(d for d, _ in compared), "history_without_gap": all(h for _, h in compared)})
            print(rows[-1], flush=True)
    write_json(args.out, {"what": "SIGKILL at random instants, then resume; mock sky, xresnet_tiny, fp32 on a CPU", "arguments": {k: v for k, v in vars(args).items() if k != "out"}, "runs": rows, "versions": versions()})
    sys.exit(any(r["largest_weight_difference"] > TOLERANCE or not r["history_without_gap"] for r in rows))


if __name__ == "__main__": main()
