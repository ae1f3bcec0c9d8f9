"""What the networks look at, on a mock sky and on 400 real galaxies: results/explain_*.json and the figures for the README.

    GALAXY_CNN_REAL=FOLDER python benchmarks/explain.py [--sky mock real] [--n 200] [--mock 2500] [--work FOLDER] [--out results]

For each sky: `galaxy-cnn train` with no option, then chapter 39 on galaxies that each network has not seen. FOLDER of GALAXY_CNN_REAL holds sdss_sample/; without
it there is the mock only. Surveys and Runs lie in a temporary folder; with --work they are kept there and found by the next call, beside all figures.
The real galaxies stay out of the repository: of their figures, those that show no galaxy go to --out, the others to --work.
"""
import argparse
import os
import tempfile
from pathlib import Path

from galaxy_cnn.explain import explanation, format_explain, make_context
from galaxy_cnn.files import atomic_path, write_json
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.run import CARD_FILE, read_run
from galaxy_cnn.survey import read_survey
from galaxy_cnn.train import train

RESULTS = Path(__file__).resolve().parent.parent / "results"
FIGURES = ("feature_space", "integrated_gradients", "gradcam", "radius", "sanity", "components")
SHOW_GALAXIES = ("feature_space", "integrated_gradients", "gradcam", "sanity")
DPI = 90  # a figure stays below 400 kB


def survey_of(sky, args):
    "The mock Survey, drawn where it is not there yet, or the real one; None where there is none"
    if sky == "mock": return read_survey(args.work / "mock") if (args.work / "mock").is_dir() else make_mock(args.work / "mock", args.mock, args.seed, workers=1)
    return read_survey(Path(os.environ["GALAXY_CNN_REAL"]) / "sdss_sample") if "GALAXY_CNN_REAL" in os.environ else None


def one_sky(sky, survey, args):
    "Train where no Run is there yet, explain, and write numbers, captions and figures"
    out = args.work / f"run_{sky}"
    run = read_run(out) if (out / CARD_FILE).is_file() else train(survey, out)
    found, figures, captions = explanation(make_context(run, survey, n=args.n))
    print(format_explain(found), flush=True)
    for name in FIGURES:
        folder = args.work if sky == "real" and name in SHOW_GALAXIES else args.out
        with atomic_path(folder / f"explain_{sky}_{name}.png") as tmp: figures[name].savefig(tmp, format="png", dpi=DPI)
    about = {"survey": len(survey), "arch": run.card["arch"], "networks": len(run.networks), "gaussian_process": bool(run.card.get("gp"))}
    write_json(args.out / f"explain_{sky}.json", {"what": "galaxy-cnn explain, 12 + log(O/H) [dex]; intervals: 95 % bootstrap", "run": about, **found, "captions": captions})


def main(args):
    for sky in args.sky:
        if (survey := survey_of(sky, args)) is None: print("GALAXY_CNN_REAL is not set: the mock sky only.")
        else: one_sky(sky, survey, args)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sky", nargs="+", choices=("mock", "real"), default=["mock", "real"])
    parser.add_argument("--n", type=int, default=200, help="galaxies whose maps are averaged")
    parser.add_argument("--mock", type=int, default=2500, help="galaxies of the mock sky")
    parser.add_argument("--seed", type=int, default=3, help="of the mock sky")
    parser.add_argument("--work", type=Path, help="folder of Surveys and Runs; a temporary one where not given")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        args.work = args.work or Path(scratch)
        main(args)
