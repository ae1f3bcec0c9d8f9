"""Do the error bars hold on galaxies that nothing was trained or calibrated on?

    python benchmarks/mock_coverage.py [--n 8000] [--test 6000] [--work runs/mock_coverage]
                                       [--out results/mock_coverage.json]

A Run of `galaxy-cnn train` with no option is asked about another mock sky. Coverage at 68, 90 and 95 %, overall and in
bins of predicted and of observed metallicity, stellar mass, redshift and size. Bins of all but the observed value are
counted: outside is beyond three standard deviations, in which are the noise of the bin and that of the calibration (a
fifth of the sky that is trained on). Bins of the observed value are shown only: a prediction that regresses to the mean
cannot cover the extremes. Widths beside one sigma for all.

One calibration is one draw. What is off in every draw shows when the test sky is halved again and again: one half
calibrates, the other is scored, in tenths of the prediction. About seven minutes of one core, four of them to draw.
"""
import numpy as np
import pandas as pd
from harness import option_parser, write_results

from galaxy_cnn import figures
from galaxy_cnn.metrics import bins_outside, bootstrap, coverage, coverage_by, rmse, sharpness
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.run import read_run
from galaxy_cnn.train import train
from galaxy_cnn.uncertainty import INTERVAL_LEVELS, ErrorModel, fit_calibration, pit

SEEDS = 11, 12  # of the sky that is trained on, and of the other
COUNTED = {"predicted Z": None, "stellar mass": "log_mass", "redshift": "z", "size": "petroR90_r"}
OBSERVED = "observed Z"
LABELS = {"predicted Z": "predicted 12 + log(O/H) [dex]", OBSERVED: "observed 12 + log(O/H) [dex]",
          "stellar mass": r"stellar mass [log M$_\odot$]", "redshift": "redshift", "size": "petroR90_r [arcsec]"}
HALVINGS = 40


def level_numbers(true, pred, ends):
    "Coverage, width and sharpness of the intervals, by level"
    found = {}
    for level, (lo, hi) in ends.items():
        width = bootstrap(lambda w: w.mean(-1), hi - lo)
        found[f"{level:g}"] = {"coverage": coverage(true, lo, hi), "mean_width": width,
                               **sharpness(true, pred, lo, hi, level)}
    return found


def tenths_over_halvings(true, pred, sigma):
    "Coverage in tenths of the prediction by calibrations on half of the galaxies: mean and scatter over halvings"
    edges, n = np.quantile(pred, np.linspace(0, 1, 11)), len(true)
    found = []
    for seed in range(HALVINGS):
        fit, test = np.split(np.random.default_rng(seed).permutation(n), [n // 2])
        calibration = fit_calibration(true[fit], pred[fit], sigma[fit])
        ends = calibration.intervals(pred[test], sigma[test])
        table = coverage_by(pred[test], true[test], ends, edges, min_n=1)
        found.append(table[[f"coverage_{100 * level:.0f}" for level in INTERVAL_LEVELS]])
    values = [t.to_numpy() for t in found]
    names = found[0].columns
    mean = pd.DataFrame(np.mean(values, 0), columns=names)
    spread = pd.DataFrame(np.std(values, 0), columns=names)
    return {"halvings": HALVINGS, "n_calibrate": n // 2, "mean": mean.to_dict("list"), "std": spread.to_dict("list")}


def figure(values, tables, n, n_calibrate):
    "Reliability and PIT, and coverage in bins: 68 % above, 90 and 95 % below"
    fig = figures.new_figure(19, 6.2)
    axes = fig.subplots(2, 1 + len(tables))
    figures.plot_reliability(axes[0, 0], values, n_calibrate)
    figures.plot_pit(axes[1, 0], values, n_calibrate=n_calibrate)
    for (name, table), column in zip(tables.items(), axes.T[1:]):
        figures.plot_coverage_by(column[0], table, LABELS[name], INTERVAL_LEVELS[:1])
        figures.plot_coverage_by(column[1], table, LABELS[name], INTERVAL_LEVELS[1:])
    limits = ((55, 80), (80, 100))
    for row, limit in zip(axes[:, 1:], limits):
        for ax, name in zip(row, tables):
            if name != OBSERVED: ax.set_ylim(limit)
    for ax in axes.flat: figures.panel_titles(ax, "mock sky", f"n = {n:,}")
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
    columns = {name: pred if column is None else survey.target(column) for name, column in COUNTED.items()}
    tables = {name: coverage_by(column, true, ends, n_calibrate=c.n) for name, column in columns.items()}
    outside = {name: bins_outside([table]) for name, table in tables.items()}
    tables[OBSERVED] = coverage_by(true, true, ends, n_calibrate=c.n)
    overall = level_numbers(true, pred, ends)
    spread = np.quantile(c.apply(pred, sigma)["sigma"], [0.16, 0.5, 0.84])
    write_results(args.out, {
        "trained_on": run.card["networks"][0]["n_train"], "calibrated_on": c.n, "rmse": bootstrap(rmse, true, pred),
        "sigma_spread": {"what": "16th, 50th and 84th percentile of the calibrated sigma [dex]", "values": spread},
        "overall": overall, "bins_outside": outside, "all_bins_outside": bins_outside(list(tables.values())[:-1]),
        "bins": {name: t.to_dict("records") for name, t in tables.items()},
        "tenths_of_predicted_z": tenths_over_halvings(true, pred, sigma),
    }, "coverage of the intervals of 12 + log(O/H) on a mock sky that the Run has not seen", "mock", len(true))
    figures.save_figures(args.out.parent, {args.out.stem: figure(values, tables, len(true), c.n)})
    print({level: round(v["coverage"]["value"], 4) for level, v in overall.items()}, outside)


if __name__ == "__main__":
    parser = option_parser(__doc__, out="mock_coverage.json", work="runs/mock_coverage")
    parser.add_argument("--n", type=int, default=8000)
    parser.add_argument("--test", type=int, default=6000)
    main(parser.parse_args())
