"""Do the error bars hold on galaxies that nothing was trained or calibrated on? A Run of `galaxy-cnn train` with no option, asked about another mock sky.

    python benchmarks/mock_coverage.py [--n 32000] [--test 6000] [--work runs/mock_coverage] [--out results/mock_coverage.json]

Coverage at 68, 90 and 95 %, overall and in bins of predicted Z, stellar mass, redshift and size (gated: three binomial standard deviations where a bin has 500 galaxies), and of true Z (shown only: a
prediction that regresses to the mean cannot cover the extremes of the truth). Widths beside one sigma for all. The sky that is trained on is as large as still gives the small network (of its galaxies a
fifth calibrate, and the fewer there are, the more of their noise is seen in the bins); `expected_outside` is the number of bins that would lie outside if every interval were perfect.
"""
import argparse
from pathlib import Path

import numpy as np
from scipy.stats import binom

from galaxy_cnn.figures import (
    AXIS_LABELS, new_figure, panel_titles, plot_coverage_by, plot_pit, plot_reliability, save_figures,
)
from galaxy_cnn.files import write_json
from galaxy_cnn.metrics import bootstrap, coverage, coverage_by, rmse, sharpness
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.run import read_run
from galaxy_cnn.train import train
from galaxy_cnn.uncertainty import INTERVAL_LEVELS, ErrorModel, pit

SEEDS = 11, 12  # of the sky that is trained on, and of the other
GATED = {"predicted Z": None, "stellar mass": "log_mass", "redshift": "z", "size (petroR90_r)": "petroR90_r"}


def expected_outside(tables):
    "Bins that lie beyond three binomial standard deviations by chance alone"
    shares = [binom.cdf(n * (l - b), n, l) + binom.sf(n * (l + b), n, l) for t in tables.values() for l in INTERVAL_LEVELS for n, b in zip(t["n"], t[f"band_{100 * l:.0f}"])]
    return float(np.sum(shares))


def figure(true, values, tables, n):
    "Reliability, PIT, and coverage in bins"
    fig = new_figure(14, 6.4)
    axes = fig.subplots(2, 4).ravel()
    plot_reliability(axes[0], values)
    plot_pit(axes[1], values)
    for ax, (name, table) in zip(axes[2:], tables.items()): plot_coverage_by(ax, table, name if name != "predicted Z" else f"predicted {AXIS_LABELS['metallicity']}")
    for ax in axes[2 + len(tables):]: ax.remove()
    for ax in axes[:2 + len(tables)]: panel_titles(ax, "mock sky", f"n = {n:,}")
    return fig


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=32_000)
    parser.add_argument("--test", type=int, default=6000)
    parser.add_argument("--work", type=Path, default=Path("runs/mock_coverage"))
    parser.add_argument("--out", type=Path, default=Path("results/mock_coverage.json"))
    args = parser.parse_args()
    skies = [make_mock(args.work / f"sky{seed}-{n}", n=n, seed=seed) for n, seed in zip((args.n, args.test), SEEDS)]
    out = args.work / f"run-{args.n}"
    run = read_run(out) if (out / "model.json").is_file() else train(skies[0], out)
    c, survey = ErrorModel.load(run.path).calibrations["metallicity"], skies[1]
    found, true = run.predict(survey.image_files), survey.target("metallicity")
    pred, sigma = found.mean[:, 0], found.sigma[:, 0]
    ends, values = c.intervals(pred, sigma), pit(c, true, pred, sigma)
    tables = {name: coverage_by(pred if column is None else survey.target(column), true, ends) for name, column in GATED.items()}
    passed = {name: {f"{100 * level:.0f}": f"{int(t[f'pass_{100 * level:.0f}'].sum())} of {len(t)}" for level in ends} for name, t in tables.items()}
    by_chance = expected_outside(tables)
    tables["true Z (not gated)"] = coverage_by(true, true, ends)
    write_json(args.out, {
        "what": "coverage of the intervals of 12 + log(O/H) on a mock sky that the Run has not seen", "sky": "mock", "n": len(true), "calibrated_on": c.n, "rmse": bootstrap(rmse, true, pred),
        "sigma_spread": {"what": "16th, 50th and 84th percentile of the calibrated sigma [dex]", "values": np.quantile(c.apply(pred, sigma)["sigma"], [0.16, 0.5, 0.84])},
        "components": {"data": float(np.sqrt(np.mean(found.aleatoric**2))), "model": float(np.sqrt(np.mean(found.epistemic**2)))},
        "overall": {f"{level:g}": {"coverage": coverage(true, *e), "mean_width": bootstrap(lambda w: w.mean(-1), e[1] - e[0]), **sharpness(true, pred, *e, level)} for level, e in ends.items()},
        "bins_within_three_binomial_sigma": passed, "expected_outside": by_chance, "bins": {name: t.to_dict("records") for name, t in tables.items()}})
    save_figures(args.out.parent, {args.out.stem: figure(true, values, tables, len(true))})
    print({level: round(coverage(true, *e)["value"], 4) for level, e in ends.items()}, passed)


if __name__ == "__main__": main()
