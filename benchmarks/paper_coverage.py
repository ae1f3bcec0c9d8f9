"""Error bars for the predictions of Wu & Boada (2019) for 20,366 real galaxies: half calibrates, half is scored.

    GALAXY_CNN_REAL=FOLDER python benchmarks/paper_coverage.py [--halves 40]

FOLDER holds facts/wu_boada_2019_test_predictions.csv. There is no sigma in it: error bars come from the residuals at
similar predictions alone (`galaxy_cnn.uncertainty`). The halving is repeated with other seeds; every number is given as
its mean over the halvings and its worst. The figure shows the first. Beside the calibration, one sigma for all galaxies
from the same half. Bands are three standard deviations of the noise of the bin and of the calibration, which has as
many galaxies: sqrt(2) of the binomial ones. And how far single calibrations of 30, 60 and 300 galaxies are off. Writes
results/paper_coverage.json and results/paper_coverage.png.
"""
import numpy as np
import pandas as pd
from harness import RESULTS, option_parser, real_folder, save_figure, write_results
from matplotlib.figure import Figure
from paper_predictions import PUBLISHED, published_predictions

from galaxy_cnn.figures import plot_coverage_by, plot_pit, plot_reliability
from galaxy_cnn.metrics import BIN_MIN, bins_outside, conformal_quantile, coverage, coverage_by, sharpness
from galaxy_cnn.uncertainty import INTERVAL_LEVELS, fit_calibration, pit

BINNINGS = {"ten bins of equal number": None, "0.1 dex wide": np.arange(8, 10, 0.1),
            "0.05 dex wide": np.arange(8, 10, 0.05)}  # name: edges [dex]
ENDS = np.array([-np.inf, 8.4, 9.15, np.inf])  # [dex] metal-poor, between, metal-rich
FEW, DRAWS = (30, 60, 300), 400  # galaxies of a small calibration; how many of them
AVERAGED = ("width", "constant_width", "width_ratio", "score", "constant_score", "score_ratio")


def worst_bin(table, level):
    "Largest departure of a bin, in standard deviations"
    name = f"{100 * level:.0f}"
    departures = (table[f"coverage_{name}"] - level).abs()
    return float((3 * departures / table[f"band_{name}"]).max())


def halves(n, seed):
    "Rows of the half that calibrates, and of the other"
    order = np.random.default_rng(seed).permutation(n)
    return order[:n // 2], order[n // 2:]


def one_half(true, pred, seed):
    "All numbers of one halving"
    fit, test = halves(len(true), seed)
    intervals = fit_calibration(true[fit], pred[fit]).intervals(pred[test])
    arms = {level: conformal_quantile(np.abs(true[fit] - pred[fit]), level) for level in INTERVAL_LEVELS}
    one = {level: (pred[test] - arm, pred[test] + arm) for level, arm in arms.items()}
    return {"calibrated": interval_numbers(true[test], pred[test], intervals),
            "one_sigma": interval_numbers(true[test], pred[test], one)}


def interval_numbers(true, pred, intervals):
    "Coverage, sharpness and how bins of the prediction hold, by level"
    tables = {how: coverage_by(pred, true, intervals, edges, n_calibrate=len(true)) for how, edges in BINNINGS.items()}
    found = {}
    for level in INTERVAL_LEVELS:
        ends, passed = intervals[level], f"pass_{100 * level:.0f}"
        row = {"coverage": coverage(true, *ends)["value"], **sharpness(true, pred, *ends, level)}
        row |= {f"worst z, {how}": worst_bin(table, level) for how, table in tables.items()}
        row |= {f"bins that hold, {how}": table[passed].mean() for how, table in tables.items()}
        found[level] = row
    return found


def summary(rows, name, level):
    "Means over the halvings, the worst, and in how many of them every bin holds"
    numbers = pd.DataFrame([row[name][level] for row in rows])
    off = (numbers["coverage"] - level).abs()
    found = {"coverage": float(numbers["coverage"].mean()), "off_mean": float(off.mean()),
             "off_worst": float(off.max()), "within_1_point": float((off <= 0.01).mean())}
    found |= {key: float(numbers[key].mean()) for key in AVERAGED}
    return found | {"bins_of_predicted_z": {how: bins_summary(numbers, how) for how in BINNINGS}}


def bins_summary(numbers, how):
    "How the bins of one kind hold over the halvings, in standard deviations"
    worst, held = numbers[f"worst z, {how}"], numbers[f"bins that hold, {how}"]
    return {"bins_within_3": float(held.mean()), "halvings_with_all_bins_within_3": float((worst <= 3).mean()),
            "worst_z_mean": float(worst.mean()), "worst_z_worst": float(worst.max())}


def by_value(true, pred, n_halves):
    """Coverage by predicted and by observed metallicity: tenths and ends, mean over halvings; bins of the prediction
    that lie outside, found and expected"""
    tenths = {name: np.quantile(v, np.linspace(0, 1, 11)) for name, v in (("predicted_z", pred), ("observed_z", true))}
    found, outside = {}, []
    for seed in range(n_halves):
        fit, test = halves(len(true), seed)
        intervals = fit_calibration(true[fit], pred[fit]).intervals(pred[test])
        for name, values in (("predicted_z", pred[test]), ("observed_z", true[test])):
            for what, edges in (("tenths", tenths[name]), ("ends", ENDS)):
                table = coverage_by(values, true[test], intervals, edges, min_n=20, n_calibrate=len(fit))
                found.setdefault(name, {}).setdefault(what, []).append(table)
        outside.append(bins_outside([found["predicted_z"]["tenths"][-1]]))
    means = {name: {what: mean_table(tables) for what, tables in kinds.items()} for name, kinds in found.items()}
    total = {k: sum(o[k] for o in outside) for k in ("found", "expected", "of")}
    return means | {"tenths_of_predicted_z_outside": total}


def mean_table(tables):
    "Coverages of several tables with the same bins: their mean and standard deviation"
    columns = [c for c in tables[0] if c.startswith("coverage_")]
    values = np.stack([t[columns].to_numpy() for t in tables])
    first = tables[0][["low", "high", "median", "n"]].replace([-np.inf, np.inf], None)
    mean = pd.DataFrame(values.mean(0), columns=columns)
    std = pd.DataFrame(values.std(0), columns=[c.replace("coverage", "std") for c in columns])
    return pd.concat([first, mean, std], axis=1).to_dict("records")


def few_galaxies(true, pred):
    "Coverage of 90 % intervals by calibrations of few galaxies: mean, lowest and highest 5 % over draws"
    found = {}
    for n in FEW:
        held = []
        for seed in range(DRAWS):
            fit, test = np.split(np.random.default_rng(seed).permutation(len(true)), [n])
            ends = fit_calibration(true[fit], pred[fit]).interval(pred[test], level=0.90)
            held.append(coverage(true[test], *ends)["value"])
        low, high = np.quantile(held, [0.05, 0.95])
        found[n] = {"draws": DRAWS, "mean": np.mean(held), "lowest_5_percent": low, "highest_5_percent": high}
    return found


def figure(true, pred, test, calibration):
    "Reliability, PIT and coverage by predicted and by true metallicity of one halving"
    fig = Figure(figsize=(9, 6.6), layout="constrained")
    axes = fig.subplots(2, 2).ravel()
    values, intervals = pit(calibration, true[test], pred[test]), calibration.intervals(pred[test])
    n = calibration.n
    plot_reliability(axes[0], values, n)
    plot_pit(axes[1], values, n_calibrate=n)
    labels = "predicted 12 + log(O/H) [dex]", "observed 12 + log(O/H) [dex]: cannot hold"
    for ax, by, label in zip(axes[2:], (pred, true), labels):
        plot_coverage_by(ax, coverage_by(by[test], true[test], intervals, n_calibrate=n), label)
    fig.suptitle(f"SDSS, real: predictions of Wu & Boada 2019, 128 px; {calibration.n:,} galaxies calibrate, "
                 f"{len(test):,} others are shown", fontsize=10)
    return fig


def line(name, level, v):
    "A line of what is printed"
    held = ", ".join(f"{how} {b['bins_within_3']:.1%} ({b['halvings_with_all_bins_within_3']:.0%})"
                     for how, b in v["bins_of_predicted_z"].items())
    return (f"{name:>10} {level:>4}: coverage {v['coverage']:.4f}, off by {v['off_mean']:.4f} "
            f"(worst {v['off_worst']:.4f}), width ratio {v['width_ratio']:.3f}, score ratio {v['score_ratio']:.3f}; "
            f"bins within 3 sigma (halvings where all are): {held}")


def main(args, real):
    table = published_predictions(real)
    true, pred = table["oh_p50"].to_numpy(), table["pred_128"].to_numpy()
    rows = [one_half(true, pred, seed) for seed in range(args.halves)]
    found = {name: {f"{level:g}": summary(rows, name, level) for level in INTERVAL_LEVELS} for name in rows[0]}
    fit, test = halves(len(true), 0)
    calibration = fit_calibration(true[fit], pred[fit])
    intervals = calibration.intervals(pred[test])
    first = {f"{by}_z": coverage_by(values[test], true[test], intervals, n_calibrate=len(fit)).to_dict("records")
             for by, values in (("predicted", pred), ("observed", true))}
    result = {"n_calibrate": len(fit), "n_test": len(test), "halvings": args.halves, "smallest_bin": BIN_MIN,
              **found, "first_halving": first, "by_value": by_value(true, pred, args.halves),
              "few_galaxies_calibrate": few_galaxies(true, pred)}
    what = "coverage of conformal intervals on the residuals of Wu & Boada 2019, 128 px [dex]"
    write_results(RESULTS / "paper_coverage.json", result, what, "real")
    save_figure(RESULTS / "paper_coverage.png", figure(true, pred, test, calibration))
    for name, levels in found.items():
        for level, v in levels.items(): print(line(name, level, v))


if __name__ == "__main__":
    parser = option_parser(__doc__)
    parser.add_argument("--halves", type=int, default=40, help="random halvings")
    main(parser.parse_args(), real_folder(PUBLISHED))
