"""The whole suite of `galaxy_cnn.experiments` on a mock sky and on 400 real galaxies.

    GALAXY_CNN_REAL=FOLDER python benchmarks/experiments.py [--sky mock real] [--survey data/experiments] [--n 5000]
                                                            [--folder runs/experiments] [--workers N]

Writes results/experiments_*.json, their figures and the table beside the paper. With --only, the other experiments
stay in those files as they are; each carries its own settings. The mock sky is drawn where it is not there yet.
Without GALAXY_CNN_REAL (a folder with sdss_sample/, sdss_spirals/ and facts/) there is the mock only, and the paper's
own predictions are not drawn beside ours. A killed run goes on with the same command. Ends with exit code 1 where an
ordering that physics demands is violated, after everything has been written. --n, --steps and --folds are for trying
it out.
"""
import os
import sys
import time
from pathlib import Path

from harness import RESULTS, option_parser, real_folder, save_figure, write_results
from paper_predictions import SIZES, published_predictions

from galaxy_cnn.experiments import (
    EXPERIMENTS,
    check_orderings,
    experiments,
    figures_of,
    format_experiments,
    orderings,
    reproduction_table,
)
from galaxy_cnn.features import measure
from galaxy_cnn.files import atomic_path, read_json
from galaxy_cnn.metrics import bootstrap, nmad, rmse
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.studies import neighbor_correlation
from galaxy_cnn.survey import read_survey


def paper_points(real):
    "RMSE and NMAD of the paper's own predictions by size, with n and interval"
    table = published_predictions(real)
    true = table["oh_p50"].to_numpy()
    pred = {px: table[f"pred_{px}"].to_numpy() for px in SIZES}
    return {px: {f.__name__: bootstrap(f, true, pred[px]) for f in (rmse, nmad)} for px in SIZES}


def sky_of_neighbors(survey):
    "Do neighbors on the sky share the light and the noise of their sky?"
    features = measure(survey.image_files)
    found = {k: neighbor_correlation(survey.catalog, features[k]) for k in ("sky_r", "noise_r")}
    return {"sky": "mock" if survey.is_mock else "real", "survey": survey.name, **found}


def merged(file, results):
    "Results of some experiments beside those of the others that a file holds, in the suite's order"
    known = read_json(file)["experiments"] if file.is_file() else {}
    both = known | results
    return {name: both[name] for name in EXPERIMENTS if name in both}


def one_sky(survey, kind, args, paper, neighbors):
    "Run the suite on one Survey and write its results; returns the violations"
    folder, began = args.folder / kind, time.perf_counter()
    kept = len(list((folder / "networks").glob("*.parquet")))
    options = args.only, args.n, args.steps, args.seed, args.folds
    measured = experiments(survey, folder, *options, workers=args.workers)
    file = args.results / f"experiments_{kind}.json"
    results = merged(file, measured) if args.only else measured
    found = {"survey": survey.name, "cores": os.cpu_count(), "workers": args.workers, "measured": list(measured),
             "seconds": round(time.perf_counter() - began), "networks_kept_from_before": kept,
             "networks_trained": sum(r["networks_trained"] for r in measured.values()),
             "orderings": orderings(results), "violations": check_orderings(results), "paper_predictions": paper,
             "sky_of_neighbors": neighbors, "experiments": results}
    what = "galaxy-cnn experiments, 12 + log(O/H) [dex]; intervals: 95 % bootstrap, of the leak Student's over repeats"
    write_results(file, found, what, kind)
    if kind == "mock": draw(found, args.results)
    print(format_experiments(measured))
    return found["violations"]


def write_table(folder):
    "The table of the README from the mock sky's results; the real 400 are too few to train a study's networks on"
    file = folder / "experiments_mock.json"
    if not file.is_file(): return
    with atomic_path(folder / "experiments.md") as tmp:
        tmp.write_text(reproduction_table(read_json(file)["experiments"]) + "\n")


def draw(results, folder):
    "The figures of the mock sky; networks of 150 steps on 320 real galaxies would only say how far they were trained"
    paper = {int(px): v for px, v in (results["paper_predictions"] or {}).items()}
    for name, figure in figures_of(results["experiments"], paper).items():
        save_figure(folder / f"experiments_mock_{name}.png", figure)


def folds(text):
    "A number, or auto or none"
    if text == "none": return None
    return text if text == "auto" else int(text)


def main(args):
    real, violations = real_folder(), []
    paper = real and paper_points(real)
    if "mock" in args.sky:
        there = args.survey.is_dir()
        survey = read_survey(args.survey) if there else make_mock(args.survey, args.n, args.seed)
        violations += one_sky(survey, "mock", args, paper, sky_of_neighbors(survey))
    if "real" in args.sky and real:
        neighbors = sky_of_neighbors(read_survey(real / "sdss_spirals"))
        violations += one_sky(read_survey(real / "sdss_sample"), "real", args, paper, neighbors)
    elif "real" in args.sky: print("GALAXY_CNN_REAL is not set: the mock sky only.")
    write_table(args.results)
    if violations: sys.exit("\n".join(violations))


if __name__ == "__main__":
    parser = option_parser(__doc__, seed=0)
    parser.add_argument("--sky", nargs="+", choices=("mock", "real"), default=["mock", "real"])
    parser.add_argument("--survey", type=Path, default=Path("data/experiments"), help="mock sky; made if missing")
    parser.add_argument("--folder", type=Path, default=Path("runs/experiments"), help="what makes the suite resumable")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--n", type=int, default=5000, help="galaxies of the mock sky, at most")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--folds", type=folds, default="auto", help="auto, none or a number")
    parser.add_argument("--workers", type=int, help="processes that train networks; default: one for each core")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS)
    main(parser.parse_args())
