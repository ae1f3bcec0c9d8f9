"""Is the fast path as accurate? Cutouts in memory, our optimizer and bfloat16 against the stock recipe.

    python benchmarks/same_accuracy.py [--n 3000] [--seeds 0 1 2 ...] [--workers N] [--out results/same_accuracy.json]

The stock recipe is the DataBlock, fastai's optimizer and float32; same splits and seeds, paired. A mock sky;
xresnet_tiny at 112 px with 20 epochs, and xresnet18 (Mish, no self-attention) at 64 px with 7 epochs and Ranger. RMSE
of the validation split after the last epoch. Processes of one thread each.
"""
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from harness import option_parser, write_results
from scipy.stats import t
from stock import Rmse, fast_dls, learner, stock_dls

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
    size, epochs = ARCHS[arch]
    survey, rmse = read_survey(path), Rmse()
    split = assign_split(survey.catalog, seed)
    if fast: dls = fast_dls(survey, split, load_cutouts(survey, workers=1)[0], arch, size, seed)
    else: dls = stock_dls(survey, split, arch, size, seed)
    precision = choose_precision("auto", "cpu") if fast else "fp32"
    callbacks = [EpochSeed(seed), rmse]
    learn = learner(dls, survey, split, arch, precision, fastai=not fast, cbs=callbacks, seed=seed)
    learn.fit_one_cycle(epochs, RECIPES[arch].lr)
    return rmse.value


def paired(stock, fast):
    "Mean difference and its 95 % interval by Student's t"
    d = np.subtract(fast, stock)
    n, mean = len(d), float(d.mean())
    arm = float(t.ppf(0.975, n - 1) * d.std(ddof=1) / n**0.5)
    return {"value": mean, "lo": mean - arm, "hi": mean + arm, "n": n}


def all_fits(args):
    "RMSE of each training, by architecture, seed and path"
    jobs = [(arch, seed, fast) for arch in args.archs for seed in args.seeds for fast in (False, True)]
    with tempfile.TemporaryDirectory() as folder:
        survey = make_mock(Path(folder) / "sky", n=args.n, seed=41, workers=args.workers)
        with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
            return dict(zip(jobs, pool.map(partial(fit, path=survey.path), jobs)))


def main(args):
    scored, found = all_fits(args), {}
    for arch in args.archs:
        size, epochs = ARCHS[arch]
        stock, fast = ([scored[arch, seed, path] for seed in args.seeds] for path in (False, True))
        minus = paired(stock, fast)
        found[arch] = {"size": size, "epochs": epochs, "stock": stock, "fast": fast, "fast_minus_stock": minus}
        print(arch, np.round(stock, 4), np.round(fast, 4), {k: round(v, 5) for k, v in minus.items()})
    path = f"in memory, foreach optimiser, {choose_precision('auto', 'cpu')}"
    what = "RMSE [dex] of the validation split, stock recipe and fast path, paired over seeds"
    write_results(args.out, {"seeds": args.seeds, "fast": path, "archs": found}, what, "mock", args.n)


if __name__ == "__main__":
    parser = option_parser(__doc__, out="same_accuracy.json")
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--archs", nargs="+", choices=ARCHS, default=list(ARCHS))
    parser.add_argument("--workers", type=int, help="processes; default: one for each core")
    main(parser.parse_args())
