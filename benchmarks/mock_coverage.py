"""Do the error bars hold on galaxies that nothing was trained or calibrated on?

    python benchmarks/mock_coverage.py [--n 32000] [--test 6000] [--work runs/mock_coverage]
                                       [--out results/mock_coverage.json]

A Run of `galaxy-cnn train` with no option is asked about another mock sky. Coverage at 68, 90 and 95 %, overall and in
bins of predicted metallicity, stellar mass, redshift and size (gated: three binomial standard deviations where a bin
has 500 galaxies), and of true metallicity (shown only: a prediction that regresses to the mean cannot cover the
extremes of the truth). Widths beside one sigma for all. The sky that is trained on is as large as still gives the small
network (of its galaxies a fifth calibrate, and the fewer there are, the more of their noise is seen in the bins);
`expected_outside` is the number of bins that would lie outside if every interval were perfect.
"""
import numpy as np
from harness import option_parser, write_results
from scipy.stats import binom

from galaxy_cnn import figures
from galaxy_cnn.metrics import bootstrap, coverage, coverage_by, rmse, sharpness
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.run import read_run
from galaxy_cnn.train import train
from galaxy_cnn.uncertainty import INTERVAL_LEVELS, ErrorModel, pit

SEEDS = 11, 12  # of the sky that is trained on, and of the other
GATED = {"predicted Z": None, "stellar mass": "log_mass", "redshift": "z", "size (petroR90_r)": "petroR90_r"}


def expected_outside(tables):
    "Bins that lie beyond three binomial standard deviations by chance alone"
    shares = []
    for table in tables.values():
        for level in INTERVAL_LEVELS:
            n, band = table["n"], table[f"band_{100 * level:.0f}"]
            below = binom.cdf(n * (level - band), n, level)
            above = binom.sf(n * (level + band), n, level)
            shares += list(below + above)
    return float(np.sum(shares))


def bins_passed(table):
    "How many bins hold, in words, by level"
    names = [f"{100 * level:.0f}" for level in INTERVAL_LEVELS]
    return {name: f"{table[f'pass_{name}'].sum()} of {len(table)}" for name in names}


def level_numbers(true, pred, ends):
    "Coverage, width and sharpness of the intervals, by level"
    found = {}
    for level, (lo, hi) in ends.items():
        width = bootstrap(lambda w: w.mean(-1), hi - lo)
        found[f"{level:g}"] = {"coverage": coverage(true, lo, hi), "mean_width": width,
                               **sharpness(true, pred, lo, hi, level)}
    return found


def figure(values, tables, n):
    "Reliability, PIT, and coverage in bins"
    fig = figures.new_figure(14, 6.4)
    axes = fig.subplots(2, 4).ravel()
    shown, rest = axes[:2 + len(tables)], axes[2 + len(tables):]
    figures.plot_reliability(axes[0], values)
    figures.plot_pit(axes[1], values)
    labels = {"predicted Z": f"predicted {figures.axis_label('metallicity')}"}
    for ax, (name, table) in zip(shown[2:], tables.items()):
        figures.plot_coverage_by(ax, table, labels.get(name, name))
    for ax in rest: ax.remove()
    for ax in shown: figures.panel_titles(ax, "mock sky", f"n = {n:,}")
    return fig


def main(args):
    def sky(n, seed): return make_mock(args.work / f"sky{seed}-{n}", n=n, seed=seed)
    train_sky, survey = sky(args.n, SEEDS[0]), sky(args.test, SEEDS[1])
    out = args.work / f"run-{args.n}"
    run = read_run(out) if (out / "model.json").is_file() else train(train_sky, out)
    c = ErrorModel.load(run.path).calibrations["metallicity"]
    found, true = run.predict(survey.image_files), survey.target("metallicity")
    pred, sigma = found.mean[:, 0], found.sigma[:, 0]
    ends, values = c.intervals(pred, sigma), pit(c, true, pred, sigma)
    columns = {name: pred if column is None else survey.target(column) for name, column in GATED.items()}
    tables = {name: coverage_by(column, true, ends) for name, column in columns.items()}
    passed, by_chance = {name: bins_passed(table) for name, table in tables.items()}, expected_outside(tables)
    tables["true Z (not gated)"] = coverage_by(true, true, ends)
    overall = level_numbers(true, pred, ends)
    spread = np.quantile(c.apply(pred, sigma)["sigma"], [0.16, 0.5, 0.84])
    components = {"data": found.aleatoric, "model": found.epistemic}
    write_results(args.out, {
        "calibrated_on": c.n, "rmse": bootstrap(rmse, true, pred),
        "sigma_spread": {"what": "16th, 50th and 84th percentile of the calibrated sigma [dex]", "values": spread},
        "components": {name: float(np.sqrt(np.mean(v**2))) for name, v in components.items()},
        "overall": overall, "bins_within_three_binomial_sigma": passed,
        "expected_outside": by_chance, "bins": {name: t.to_dict("records") for name, t in tables.items()},
    }, "coverage of the intervals of 12 + log(O/H) on a mock sky that the Run has not seen", "mock", len(true))
    figures.save_figures(args.out.parent, {args.out.stem: figure(values, tables, len(true))})
    print({level: round(v["coverage"]["value"], 4) for level, v in overall.items()}, passed)


if __name__ == "__main__":
    parser = option_parser(__doc__, out="mock_coverage.json", work="runs/mock_coverage")
    parser.add_argument("--n", type=int, default=32_000)
    parser.add_argument("--test", type=int, default=6000)
    main(parser.parse_args())
