"""Chapter 22 on the predictions that Wu & Boada (2019) published for 20,366 real galaxies: half calibrates, half is scored.

    GALAXY_CNN_REAL=FOLDER python benchmarks/paper_coverage.py [--halves 40]

FOLDER holds facts/wu_boada_2019_test_predictions.csv. There is no sigma in it: error bars come from the residuals at similar predictions alone. The halving is
repeated with other seeds; every number is given as its mean over the halvings and its worst. The figure shows the first. Beside the calibration, one sigma for
all galaxies from the same half. Writes results/paper_coverage.json and results/paper_coverage.png.
"""
import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from galaxy_cnn.figures import plot_coverage_by, plot_pit, plot_reliability
from galaxy_cnn.files import atomic_path, write_json
from galaxy_cnn.metrics import BIN_MIN, conformal_quantile, coverage, coverage_by, sharpness
from galaxy_cnn.uncertainty import INTERVAL_LEVELS, fit_calibration, pit

RESULTS = Path(__file__).parent.parent / "results"
BINNINGS = {"ten bins of equal number": None, "0.1 dex wide": np.arange(8, 10, 0.1), "0.05 dex wide": np.arange(8, 10, 0.05)}


def worst_bin(table, level):
    "Largest departure of a bin, in binomial standard deviations"
    return float((3 * (table[f"coverage_{100 * level:.0f}"] - level).abs() / table[f"band_{100 * level:.0f}"]).max())


def one_half(true, pred, seed):
    "All numbers of one halving"
    order = np.random.default_rng(seed).permutation(len(true))
    fit, test = order[:len(true) // 2], order[len(true) // 2:]
    intervals = fit_calibration(true[fit], pred[fit]).intervals(pred[test])
    arms = {level: conformal_quantile(np.abs(true[fit] - pred[fit]), level) for level in INTERVAL_LEVELS}
    one = {level: (pred[test] - arm, pred[test] + arm) for level, arm in arms.items()}
    row = {}
    for name, ends in (("calibrated", intervals), ("one_sigma", one)):
        tables = {how: coverage_by(pred[test], true[test], ends, edges) for how, edges in BINNINGS.items()}
        for level in INTERVAL_LEVELS:
            found = {"coverage": coverage(true[test], *ends[level])["value"], **sharpness(true[test], pred[test], *ends[level], level)}
            found |= {f"worst z, {how}": worst_bin(table, level) for how, table in tables.items()}
            found |= {f"bins that hold, {how}": table[f"pass_{100 * level:.0f}"].mean() for how, table in tables.items()}
            row |= {(name, level, key): value for key, value in found.items()}
    return row


def summary(rows, name, level):
    "Means over the halvings, the worst, and in how many of them every bin holds"
    numbers = pd.DataFrame([{key: value for (n, l, key), value in row.items() if (n, l) == (name, level)} for row in rows])
    off = (numbers["coverage"] - level).abs()
    found = {"coverage": float(numbers["coverage"].mean()), "off_mean": float(off.mean()), "off_worst": float(off.max()), "within_1_point": float((off <= 0.01).mean())}
    found |= {key: float(numbers[key].mean()) for key in ("width", "constant_width", "width_ratio", "score", "constant_score", "score_ratio")}
    bins = {how: (numbers[f"worst z, {how}"], numbers[f"bins that hold, {how}"]) for how in BINNINGS}
    return found | {"bins_of_predicted_z": {how: {"bins_within_3": float(held.mean()), "halvings_with_all_bins_within_3": float((z <= 3).mean()),
                                                  "worst_z_mean": float(z.mean()), "worst_z_worst": float(z.max())} for how, (z, held) in bins.items()}}


def figure(true, pred, test, calibration):
    "Reliability, PIT and coverage by predicted and by true Z of one halving"
    fig = Figure(figsize=(9, 6.6), layout="constrained")
    axes = fig.subplots(2, 2).ravel()
    values, intervals = pit(calibration, true[test], pred[test]), calibration.intervals(pred[test])
    plot_reliability(axes[0], values)
    plot_pit(axes[1], values)
    for ax, by, label in ((axes[2], pred, "predicted 12 + log(O/H)"), (axes[3], true, "observed 12 + log(O/H): not expected to hold")):
        plot_coverage_by(ax, coverage_by(by[test], true[test], intervals), label)
    fig.suptitle(f"SDSS, real: predictions of Wu & Boada 2019, 128 px; {calibration.n:,} galaxies calibrate, {len(test):,} others are shown", fontsize=10)
    return fig


def main(folder, halves):
    table = pd.read_csv(Path(folder) / "facts" / "wu_boada_2019_test_predictions.csv", dtype={"objID": "int64"})
    true, pred = table["oh_p50"].to_numpy(), table["pred_128"].to_numpy()
    rows = [one_half(true, pred, seed) for seed in range(halves)]
    found = {name: {f"{level:g}": summary(rows, name, level) for level in INTERVAL_LEVELS} for name in ("calibrated", "one_sigma")}
    order = np.random.default_rng(0).permutation(len(true))
    fit, test = order[:len(true) // 2], order[len(true) // 2:]
    calibration = fit_calibration(true[fit], pred[fit])
    first = {by: coverage_by(v[test], true[test], calibration.intervals(pred[test])).to_dict("records") for by, v in (("predicted_z", pred), ("true_z", true))}
    write_json(RESULTS / "paper_coverage.json", {"what": "coverage of conformal intervals on the residuals of Wu & Boada 2019, 128 px [dex]", "sky": "real", "n_calibrate": len(fit),
        "n_test": len(test), "halvings": halves, "smallest_bin": BIN_MIN, **found, "first_halving": first})
    with atomic_path(RESULTS / "paper_coverage.png") as tmp: figure(true, pred, test, calibration).savefig(tmp, format="png", dpi=110)
    for name, levels in found.items():
        for level, v in levels.items():
            held = ", ".join(f"{how} {b['bins_within_3']:.1%} ({b['halvings_with_all_bins_within_3']:.0%})" for how, b in v["bins_of_predicted_z"].items())
            print(f"{name:>10} {level:>4}: coverage {v['coverage']:.4f}, off by {v['off_mean']:.4f} (worst {v['off_worst']:.4f}), width ratio {v['width_ratio']:.3f}, "
                  f"score ratio {v['score_ratio']:.3f}; bins within 3 sigma (halvings where all are): {held}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--halves", type=int, default=40, help="random halvings")
    if "GALAXY_CNN_REAL" not in os.environ: sys.exit("Set GALAXY_CNN_REAL to the folder that holds facts/wu_boada_2019_test_predictions.csv.")
    main(os.environ["GALAXY_CNN_REAL"], parser.parse_args().halves)
