"""Is the fast path as accurate? The stock recipe (DataBlock, fastai's optimiser, float32) against cutouts in memory, our optimiser and bfloat16: same splits and seeds, paired.

    python benchmarks/same_accuracy.py [--n 3000] [--seeds 0 1 2 ...] [--workers N] [--out results/same_accuracy.json]

A mock sky; xresnet_tiny at 112 px with 20 epochs, and xresnet18 (Mish, no self-attention) at 64 px with 7 epochs and Ranger. RMSE of the validation split after the last epoch. Processes of one thread each.
"""
import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t

sys.path.insert(0, str(Path(__file__).parent))
from stock import Rmse, fast_dls, learner, stock_dls

from galaxy_cnn.files import write_json
from galaxy_cnn.learner import RECIPES, EpochSeed, choose_precision
from galaxy_cnn.loaders import load_cutouts
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.splits import assign_split
from galaxy_cnn.survey import read_survey

ARCHS = {"xresnet_tiny": (112, 20), "xresnet18": (64, 7)}  # [px], epochs


def fit(job, path):
    "RMSE [dex] of one training"
    arch, seed, fast = job
    torch.set_num_threads(1)
    survey, (size, epochs), rmse = read_survey(path), ARCHS[arch], Rmse()
    split = assign_split(survey.catalog, seed)
    dls = fast_dls(survey, split, load_cutouts(survey, workers=1)[0], arch, size, seed) if fast else stock_dls(survey, split, arch, size, seed)
    learn = learner(dls, survey, split, arch, choose_precision("auto", "cpu") if fast else "fp32", fastai=not fast, cbs=[EpochSeed(seed), rmse], seed=seed)
    learn.fit_one_cycle(epochs, RECIPES[arch].lr)
    return rmse.value


def paired(stock, fast):
    "Mean difference and its 95 % interval by Student's t"
    d = np.subtract(fast, stock)
    arm = t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
    return {"value": float(d.mean()), "lo": float(d.mean() - arm), "hi": float(d.mean() + arm), "n": len(d)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--archs", nargs="+", default=list(ARCHS))
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("results/same_accuracy.json"))
    args = parser.parse_args()
    jobs, found = [(arch, seed, fast) for arch in args.archs for seed in args.seeds for fast in (False, True)], {}
    with tempfile.TemporaryDirectory() as folder:
        survey = make_mock(Path(folder) / "sky", n=args.n, seed=41, workers=args.workers)
        with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool: scored = dict(zip(jobs, pool.map(partial(fit, path=survey.path), jobs)))
    for arch in args.archs:
        stock, fast = ([scored[arch, seed, path] for seed in args.seeds] for path in (False, True))
        found[arch] = {"size": ARCHS[arch][0], "epochs": ARCHS[arch][1], "stock": stock, "fast": fast, "fast_minus_stock": paired(stock, fast)}
        print(arch, np.round(stock, 4), np.round(fast, 4), {k: round(v, 5) for k, v in found[arch]["fast_minus_stock"].items()})
    write_json(args.out, {"what": "RMSE [dex] of the validation split, stock recipe and fast path, paired over seeds", "sky": "mock", "n": args.n, "seeds": args.seeds,
                          "fast": f"in memory, foreach optimiser, {choose_precision('auto', 'cpu')}", "archs": found})


if __name__ == "__main__": main()
