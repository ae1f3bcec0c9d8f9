"""Seconds of `galaxy-cnn train` on a few hundred labels: folds side by side, a thread each, and one after the other

    GALAXY_CNN_REAL=... python benchmarks/folds.py [--repeats 1] [--epochs N] [--float32] [--out results/folds.json]

Fresh processes, interleaved. One after the other is how all cores were used before: every network on all threads.
Nothing else should run. --float32 makes of any x86 one without AVX-512 and bfloat16, for PyTorch and oneDNN.
"""
import os
import tempfile
import time
from functools import partial
from pathlib import Path

from harness import CORES, fresh_python, interleaved, machine, option_parser, real_folder, write_results

from galaxy_cnn.files import read_json
from galaxy_cnn.survey import read_survey

WAYS = {"side by side, one thread each": "",
        "one after the other, on all threads": "t._WORTH_PROCESSES = float('inf'); "}


def train_once(survey, how, precision, epochs):
    "Seconds of the whole training and of its networks, and what they reach"
    options = f"precision={precision!r}, epochs={epochs}, quiet=True"
    code = f"import sys; import galaxy_cnn.train as t; {how}t.train(*sys.argv[1:3], {options})"
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        fresh_python("-c", code, survey, Path(folder) / "run")
        seconds = time.perf_counter() - start
        card = read_json(Path(folder) / "run" / "model.json")
    return {"seconds": seconds, "seconds_of_the_networks": card["wall_seconds"], "threads": card["threads"],
            "rmse": card["headline"]["valid_rmse_metallicity"]}


def main(args):
    survey = real_folder("the Survey of real galaxies")
    if args.float32: os.environ |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    precision = "fp32" if args.float32 else "auto"
    before = os.getloadavg()[0]
    ways = {name: partial(train_once, survey, how, precision, args.epochs) for name, how in WAYS.items()}
    found = interleaved(ways, args.repeats)
    one, other = (found[name]["seconds_of_the_networks"]["median"] for name in WAYS)
    results = {"machine": machine(), "cores": CORES, "precision": precision, "epochs": args.epochs or "the recipe's",
               "load": {"before": before, "after": os.getloadavg()[0]}, "ways": found,
               "gain": {"value": other / one, "unit": "x, networks alone"}}
    what = "seconds of `train` on a few hundred labels, with start of the process, Gaussian processes and error bars"
    write_results(args.out, results, what, "real", len(read_survey(survey)))
    print(results)


if __name__ == "__main__":
    parser = option_parser(__doc__, out="folds.json")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="default: those of the recipe")
    parser.add_argument("--float32", action="store_true", help="as a processor with AVX2 and no more")
    main(parser.parse_args())
