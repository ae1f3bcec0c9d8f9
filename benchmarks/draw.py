"""The figures of results/ from what is stored there, and both README pages: the work of `make results`.

    [GALAXY_CNN_REAL=FOLDER] python benchmarks/draw.py

Nothing is trained. Figures of the paper's predictions and of the 400 real galaxies need GALAXY_CNN_REAL, and are left
as they are without it. Figures that need trained networks or pictures are drawn by the scripts that measure them:
demo_* by `make demo` and readme.py --demo, explain_*, mock_coverage, flag and shift by the scripts of their names.
"""
import subprocess
import sys
from pathlib import Path

import experiments
import limits
import mock_learning_curve
import real_sample
import speed
from harness import RESULTS, option_parser, real_folder, save_figure

from galaxy_cnn.figures import save_figures
from galaxy_cnn.files import read_json
from galaxy_cnn.survey import read_survey

HERE = Path(__file__).parent
OF_THE_PAPER = "paper_predictions.py", "paper_coverage.py"


def from_numbers():
    "Figures that need nothing but results/"
    experiments.draw(read_json(RESULTS / "experiments_mock.json"), RESULTS)
    save_figure(RESULTS / "benchmarks.png", speed.figure(read_json(RESULTS / "benchmarks.json")))
    of_a_core = (read_json(RESULTS / f"cpu_{name}.json") for name in ("bf16", "float32"))
    save_figure(RESULTS / "cpu_speed.png", limits.core_figure(*of_a_core))
    rows = read_json(RESULTS / "learning_curve.json")["rows"]
    save_figures(RESULTS, {"learning_curve": real_sample.curve_figure(rows)})
    curve = read_json(RESULTS / "mock_learning_curve.json")
    save_figures(RESULTS, {"mock_learning_curve": mock_learning_curve.figure(curve)})


def from_predictions(real):
    "Figures and numbers of predictions of real galaxies"
    real_sample.draw_density(read_survey(real / "sdss_sample"), RESULTS)
    for script in OF_THE_PAPER: subprocess.run([sys.executable, HERE / script], check=True)


def main():
    from_numbers()
    real = real_folder()
    if real: from_predictions(real)
    else: print("GALAXY_CNN_REAL is not set: the figures of real galaxies are left as they are.")
    subprocess.run([sys.executable, HERE / "readme.py"], check=True)


if __name__ == "__main__":
    option_parser(__doc__).parse_args()
    main()
