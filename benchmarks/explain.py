"""What the networks look at, on a mock sky and on 400 real galaxies: results/explain_*.json and figures.

    GALAXY_CNN_REAL=FOLDER python benchmarks/explain.py [--sky mock real] [--n 200] [--mock 2500] [--work FOLDER]
                                                        [--out results]

For each sky: `galaxy-cnn train` with no option, then `galaxy_cnn.explain` on galaxies that each network has not seen.
FOLDER of GALAXY_CNN_REAL holds sdss_sample/; without it there is the mock only. Surveys and Runs lie in a temporary
folder; with --work they are kept there and found by the next call, beside all figures. The real galaxies stay out of
the repository: of their figures, those that show no galaxy go to --out, the others to --work.
"""
import tempfile
from pathlib import Path

from harness import RESULTS, option_parser, real_folder, save_figure, write_results

from galaxy_cnn.explain import explanation, format_explain, make_context
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.run import CARD_FILE, read_run
from galaxy_cnn.survey import read_survey
from galaxy_cnn.train import train

FIGURES = ("feature_space", "integrated_gradients", "gradcam", "radius", "sanity", "components")
SHOW_GALAXIES = ("feature_space", "integrated_gradients", "gradcam", "sanity")
DPI = 90  # a figure stays below 400 kB


def survey_of(sky, args):
    "The mock Survey, drawn where it is not there yet, or the real one; None where there is none"
    mock, real = args.work / "mock", real_folder()
    if sky == "real": return read_survey(real / "sdss_sample") if real else None
    if mock.is_dir(): return read_survey(mock)
    return make_mock(mock, args.mock, args.seed, workers=1)


def one_sky(sky, survey, args):
    "Train where no Run is there yet, explain, and write numbers, captions and figures"
    out = args.work / f"run_{sky}"
    run = read_run(out) if (out / CARD_FILE).is_file() else train(survey, out)
    found, figures, captions = explanation(make_context(run, survey, n=args.n))
    print(format_explain(found), flush=True)
    for name in FIGURES:
        folder = args.work if sky == "real" and name in SHOW_GALAXIES else args.out
        save_figure(folder / f"explain_{sky}_{name}.png", figures[name], DPI)
    about = {"survey": len(survey), "arch": run.card["arch"], "networks": len(run.networks),
             "gaussian_process": bool(run.card.get("gp"))}
    what = "galaxy-cnn explain, 12 + log(O/H) [dex]; intervals: 95 % bootstrap"
    write_results(args.out / f"explain_{sky}.json", {"run": about, **found, "captions": captions}, what)


def main(args):
    for sky in args.sky:
        survey = survey_of(sky, args)
        if survey: one_sky(sky, survey, args)
        else: print("GALAXY_CNN_REAL is not set: the mock sky only.")


if __name__ == "__main__":
    parser = option_parser(__doc__)
    parser.add_argument("--sky", nargs="+", choices=("mock", "real"), default=["mock", "real"])
    parser.add_argument("--n", type=int, default=200, help="galaxies whose maps are averaged")
    parser.add_argument("--mock", type=int, default=1900,
                        help="galaxies of the mock sky; below 2,000 five networks are trained, the second is a control")
    parser.add_argument("--seed", type=int, default=3, help="of the mock sky")
    parser.add_argument("--work", type=Path, help="folder of Surveys and Runs; a temporary one where not given")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for numbers and figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        args.work = args.work or Path(scratch)
        main(args)
