"""A training killed with SIGKILL at random instants, many times, resumed each time: does it end with the same weights?

    python benchmarks/kill_resume.py [--kills 20] [--galaxies 96] [--epochs 24] [--seed 0]
                                     [--out results/kill_resume.json]

Compared with an uninterrupted run. Half of the kills come at a random time, half while a temporary file of a checkpoint
is on disk, that is, in the middle of a write. fp32 on a CPU, 2 networks (folds), for Adam and for Ranger. Exit code 1
if any weight differs by more than 1e-6 or history.csv has a gap.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from harness import option_parser, write_results
from safetensors.torch import load_file

from galaxy_cnn.files import versions
from galaxy_cnn.learner import OPTIMIZERS
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.train import train

TOLERANCE = 1e-6
HALF = "half a checkpoint on disk"
THREADS = 1  # a number that differs between two runs changes the order of sums, and with it the last digits


def start(survey, out, options):
    "Start a training in a process of its own and wait until it says that it trains"
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-W", "ignore", __file__, "--child", str(survey), str(out), json.dumps(options)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child = subprocess.Popen(command, env=environment, **pipes)
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
        if any((out / "checkpoint").glob(".last-*")): where = HALF
        if child.returncode == -signal.SIGKILL: found.append(where)
        elif child.returncode: raise RuntimeError(child.stderr.read())
    child = start(survey, out, options | {"resume": True})
    if child.wait(): raise RuntimeError(child.stderr.read())
    return found


def compare(whole, killed):
    "Largest difference of a weight, and whether history.csv is the same but for the seconds"
    a, b = (pd.read_csv(p / "history.csv").drop(columns="seconds") for p in (whole, killed))
    files = sorted((whole / "models").iterdir())
    weights = [(load_file(f), load_file(killed / "models" / f.name)) for f in files]
    difference = max(float((one[k] - two[k]).abs().max()) for one, two in weights for k in one)
    return difference, a.shape == b.shape and bool(np.allclose(a, b, atol=TOLERANCE, rtol=0))


def one_optimizer(opt, folder, args, rng):
    "Runs of an optimizer, killed until there are enough kills: a row of the result"
    options = dict(arch="xresnet_tiny", opt=opt, folds=2, epochs=args.epochs, bs=6, precision="fp32", device="cpu",
                   split_by="random")
    survey, whole = folder / "mock", folder / f"{opt}_whole"
    begin = time.perf_counter()
    if start(survey, whole, options).wait(): raise RuntimeError("The uninterrupted run failed.")
    longest = (time.perf_counter() - begin) / 4
    found, compared = [], []
    while len(found) < args.kills:
        out = folder / f"{opt}_{len(compared)}"
        found += killed_run(survey, out, options, args.kills - len(found), rng, longest)
        compared.append(compare(whole, out))
    differences, same = zip(*compared)
    return {"optimiser": opt, "runs": len(compared), "kills": len(found),
            "kills_with_half_a_checkpoint_on_disk": found.count(HALF),
            "largest_weight_difference": max(differences), "history_without_gap": all(same)}


def main(args):
    rng, rows = np.random.default_rng(args.seed), []
    with tempfile.TemporaryDirectory() as folder:
        make_mock(Path(folder) / "mock", n=args.galaxies, seed=args.seed, workers=1)
        for opt in OPTIMIZERS:
            rows.append(one_optimizer(opt, Path(folder), args, rng))
            print(rows[-1], flush=True)
    settings = {k: vars(args)[k] for k in ("kills", "galaxies", "epochs", "seed")}
    what = "SIGKILL at random instants, then resume; mock sky, xresnet_tiny, fp32 on a CPU"
    write_results(args.out, {"arguments": settings, "runs": rows, "versions": versions()}, what, "mock")
    sys.exit(any(r["largest_weight_difference"] > TOLERANCE or not r["history_without_gap"] for r in rows))


if __name__ == "__main__":
    parser = option_parser(__doc__, out="kill_resume.json", seed=0)
    for name, default in {"kills": 20, "galaxies": 96, "epochs": 24}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--child", nargs=3, metavar=("SURVEY", "OUT", "OPTIONS"), help="train, to be killed")
    args = parser.parse_args()
    if args.child:
        survey, out, options = args.child
        torch.set_num_threads(THREADS)
        train(survey, out, **json.loads(options))
    else: main(args)
