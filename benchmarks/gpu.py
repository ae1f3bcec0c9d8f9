"""How fast is it on a GPU, and what of the hardware's pace is that?

Decoding, loading, the training step, the full fit, prediction, and what a user would run instead, in one call:

    python benchmarks/gpu.py [--galaxies 6000] [--minutes 9] [--sections fit cold ...] [--out results/gpu.json]
    python benchmarks/gpu.py --small --out gpu_small.json    the same code at toy size on whatever device there is

Runs from the source tree. Draws a mock sky; the 104,000 images to train on and 26,112 each to validate and to predict
for are its training, validation and test galaxies over and over, under new ids (hard links), so that every RMSE is one
of distinct galaxies that no network has trained on. xresnet with Mish, without self-attention. Medians, with least and
most; RMSE with its bootstrap interval. Each section has its time and is left out, saying so, where it no longer fits;
what it found before an error or the end of its time is kept. The file is written after each section. The first four
minutes hold the ceilings, the step alone, a fit with the plain and with the captured step, the errors of both beside
stock fastai's, a cold training, prediction and what a user would run instead.
"""
import time

START = time.perf_counter()  # before the imports that take time
import gc
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # before anything imports it
from harness import Budget, machine, option_parser, peak_memory, write_results

SECONDS = {  # of each section: it is not begun with less, and it ends after (on an H100-class GPU with 16 cores)
    # four minutes
    "ceilings": (3, 10), "sky": (10, 60), "step": (10, 20), "fit": (10, 25), "captured fit": (10, 25),
    "same fit": (15, 45), "cold": (20, 50), "prediction": (15, 30), "peers": (15, 30),
    # the rest
    "launches": (5, 20), "synchronisations": (5, 20), "loader": (5, 30), "decode": (10, 60), "all fits": (30, 200),
    "variants": (15, 60), "compiled": (30, 120),
}
NEEDED = ("ceilings", "sky")  # by the others


def cold_training(arguments):
    "Train once in this process, which has just started, and print what it took; `arguments` are those of `train`"
    import torch

    from galaxy_cnn.train import train
    imported = time.perf_counter()
    run = train(**arguments, calibrate=False, quiet=True)
    trained = time.perf_counter()
    epochs = run.history()["seconds"]
    seconds = {"import": imported - START, "train": trained - imported, "first epoch": epochs.iloc[0],
               "its epochs": epochs.sum(), "around its epochs": trained - imported - epochs.sum()}
    held = {"memory": peak_memory()}
    if torch.cuda.is_initialized(): held["on the GPU"] = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": seconds, "bytes": held}))


def lines(found, path=()):
    "One line of the table for each number, error and section left out"
    for key, v in found.items():
        where = " | ".join((*path, key))
        if isinstance(v, dict) and "value" in v:
            width = f"  [{v['lo']:.4g}, {v['hi']:.4g}]" if "lo" in v else ""
            yield f"{where:<75} {v['value']:>10.4g}{width}  {v['unit']}"
        elif isinstance(v, dict): yield from lines(v, (*path, key))
        elif key in ("error", "skipped", "note"): yield f"{where:<75} {v}"


def run_sections(bench, wanted, out, about):
    "Run sections within their times, writing the file after each"
    import torch
    from gpu_sections import SECTIONS
    for name in (n for n in SECONDS if n in {*NEEDED, *wanted}):
        found = bench.found[name] = {}
        bench.budget.section(lambda found: SECTIONS[name](bench, found), found, *SECONDS[name])
        gc.collect()
        if bench.cuda: torch.cuda.empty_cache()
        write_results(out, {**about, "sections": bench.found}, "Speed on a GPU, mock sky", "mock")
        trouble = [f"{k}: {found[k]}" for k in ("error", "skipped") if k in found]
        print(f"{time.perf_counter() - START:5.0f} s  {name}", *trouble, flush=True)


def main(args):
    from gpu_bench import SMALL, Bench, Sizes
    from units import quantity

    from galaxy_cnn.learner import choose_device, choose_precision
    sizes, device = SMALL if args.small else Sizes(), choose_device(args.device)
    if args.galaxies: sizes = replace(sizes, galaxies=args.galaxies)
    budget, precision = Budget(START + 60 * args.minutes, sizes.patience), choose_precision("auto", device)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(sizes, device, precision, Path(work), budget)
        flops = {f"{arch}, forward and backward": n * 1e-9 for arch, n in bench.flops.items()}
        about = {"small": args.small, "machine": {**machine(device), "precision": precision}, "sizes": vars(sizes),
                 "operations": {name: quantity(n, "GFLOP an image") for name, n in flops.items()}}
        run_sections(bench, args.sections, args.out, about)
    names = ", ".join(str(about["machine"].get(k)) for k in ("name", "device", "cores"))
    print(*lines({"machine": {"note": names}, **bench.found}), sep="\n")


if __name__ == "__main__":
    parser = option_parser(__doc__, out="gpu.json", small="toy size, to see that everything works")
    parser.add_argument("--galaxies", type=int, help="distinct ones to draw")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--sections", nargs="+", choices=SECONDS, default=list(SECONDS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cold", type=json.loads, metavar="JSON", help="train once with these arguments, and time it")
    args = parser.parse_args()
    if args.cold: cold_training(args.cold)
    else: main(args)
