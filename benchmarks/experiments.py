"""The whole suite of chapter 37 on a mock sky and on 400 real galaxies: results/experiments_*.json, their figures and the table beside the paper.

    GALAXY_CNN_REAL=FOLDER python benchmarks/experiments.py [--sky mock real] [--survey data/experiments] [--n 5000] [--folder runs/experiments] [--workers N]

The mock sky is drawn where it is not there yet. Without GALAXY_CNN_REAL (a folder with sdss_sample/, sdss_spirals/ and facts/) there is the mock only, and the
paper's own predictions are not drawn beside ours. A killed run goes on with the same command. Ends with exit code 1 where an ordering that physics
demands is violated, after everything has been written. --n, --steps and --folds are for trying it out.
"""
import argparse
import os
import sys
import time
from pathlib import Path

import pandas as pd

from galaxy_cnn.experiments import (
    EXPERIMENTS, check_orderings, experiments, figures_of, format_experiments, orderings, reproduction_table,
)
from galaxy_cnn.features import measure
from galaxy_cnn.files import atomic_path, read_json, write_json
from galaxy_cnn.metrics import bootstrap, nmad, rmse
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.studies import neighbour_correlation
from galaxy_cnn.survey import read_survey

PAPER_SIZES = (128, 64, 32, 16)  # [px] of the predictions in the authors' repository


def paper_points(real):
    "RMSE and NMAD of the paper's own predictions by size, with n and interval"
    table = pd.read_csv(real / "facts" / "wu_boada_2019_test_predictions.csv", dtype={"objID": "int64"})
    return {px: {f.__name__: bootstrap(f, table["oh_p50"].to_numpy(), table[f"pred_{px}"].to_numpy()) for f in (rmse, nmad)} for px in PAPER_SIZES}


def sky_of_neighbours(survey):
    "Do neighbours on the sky share the light and the noise of their sky?"
    features = measure(survey.image_files)
    return {"sky": "mock" if survey.is_mock else "real", "survey": survey.name, **{k: neighbour_correlation(survey.catalog, features[k]) for k in ("sky_r", "noise_r")}}


def one_sky(survey, kind, args, paper, neighbours):
    "Run the suite on one Survey and write its results; returns the violations"
    began, kept = time.perf_counter(), len(list((args.folder / kind / "networks").glob("*.parquet")))
    results = experiments(survey, args.folder / kind, args.only, args.n, args.steps, args.seed, args.folds, workers=args.workers)
    found = {"what": "galaxy-cnn experiments, 12 + log(O/H) [dex]; intervals: 95 % bootstrap", "sky": kind, "survey": survey.name, "cores": os.cpu_count(), "workers": args.workers,
             "seconds": round(time.perf_counter() - began), "networks_kept_from_before": kept, "networks_trained": sum(r["networks_trained"] for r in results.values()),
             "orderings": orderings(results), "violations": check_orderings(results), "paper_predictions": paper, "sky_of_neighbours": neighbours, "experiments": results}
    write_json(args.results / f"experiments_{kind}.json", found)
    for name, figure in figures_of(results, paper).items():
        with atomic_path(args.results / f"experiments_{kind}_{name}.png") as tmp: figure.savefig(tmp, dpi=110)
    print(format_experiments(results))
    return found["violations"]


def write_table(folder):
    "The table of the README from the results that are there"
    there = {kind: folder / f"experiments_{kind}.json" for kind in ("mock", "real")}
    mock, real = (read_json(f)["experiments"] if f.is_file() else None for f in there.values())
    with atomic_path(folder / "experiments.md") as tmp: tmp.write_text(reproduction_table(mock, real) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sky", nargs="+", choices=("mock", "real"), default=["mock", "real"])
    parser.add_argument("--survey", type=Path, default=Path("data/experiments"), help="mock sky, drawn where it is not there")
    parser.add_argument("--folder", type=Path, default=Path("runs/experiments"), help="what makes the suite resumable")
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent.parent / "results")
    parser.add_argument("--n", type=int, default=5000, help="galaxies of the mock sky, at most")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--folds", type=lambda v: None if v == "none" else v if v == "auto" else int(v), default="auto")
    parser.add_argument("--workers", type=int, help="processes that train networks; default: one for each core")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main(args):
    real = Path(os.environ["GALAXY_CNN_REAL"]) if "GALAXY_CNN_REAL" in os.environ else None
    paper, violations = real and paper_points(real), []
    if "mock" in args.sky:
        survey = read_survey(args.survey) if args.survey.is_dir() else make_mock(args.survey, args.n, args.seed)
        violations += one_sky(survey, "mock", args, paper, sky_of_neighbours(survey))
    if "real" in args.sky and real: violations += one_sky(read_survey(real / "sdss_sample"), "real", args, paper, sky_of_neighbours(read_survey(real / "sdss_spirals")))
    elif "real" in args.sky: print("GALAXY_CNN_REAL is not set: the mock sky only.")
    write_table(args.results)
    if violations: sys.exit("\n".join(violations))


if __name__ == "__main__": main(arguments())
