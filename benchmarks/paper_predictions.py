"""The metrics and figures of this package on the predictions of Wu & Boada (2019) for 20,366 real galaxies.

    GALAXY_CNN_REAL=FOLDER python benchmarks/paper_predictions.py

FOLDER holds facts/wu_boada_2019_test_predictions.csv: objID, oh_p50 and the network's prediction from cutouts of 128,
64, 32 and 16 px, from the history of the authors' repository: a later run than that of the published tables. No network
is trained or run here. Writes results/paper_predictions.json (every metric with n and its 95 % bootstrap interval, and
what the predictions allow to say beyond the paper), results/paper_predictions.png (predicted against observed at 128
px) and results/paper_conditional.png (calibration, bias, searches, samples).
"""
import numpy as np
import pandas as pd
from harness import RESULTS, option_parser, real_folder, save_figure, write_results
from matplotlib.figure import Figure

from galaxy_cnn.evaluate import calibration_slope, onto_the_line, rmse_of_samples, search_quality
from galaxy_cnn.figures import OBSERVED, PREDICTED, density_figure, panel_titles
from galaxy_cnn.files import read_json
from galaxy_cnn.metrics import (
    BOOTSTRAP_LEVEL,
    N_BOOT,
    binned_errors,
    bootstrap,
    paired_difference,
    pearson,
    rmse,
    scores,
)

PUBLISHED = "facts/wu_boada_2019_test_predictions.csv"
SIZES = (128, 64, 32, 16)  # [px]
RICH = 9.1  # 12 + log(O/H), above which the paper counts the share of galaxies
SAMPLES = (100, 200, 400, 800, 1600, 3200, 6400)  # galaxies
SEARCHES = {f"below {z:g}": (-np.inf, z) for z in (8.3, 8.4, 8.5, 8.6, 8.7)} | {"above 9.15": (9.15, np.inf)}
GAPS = {"8.50 to 8.52": (8.5, 8.52), "9.02 to 9.04": (9.02, 9.04), "9.20 to 9.22": (9.2, 9.22)}
OPEN = {"fmt": "s-", "color": OBSERVED, "mfc": "white", "ms": 4, "lw": 1}
FILLED = {"fmt": "o--", "color": PREDICTED, "ms": 4, "lw": 1}


def published_predictions(real):
    "Table of the paper's test galaxies, from the folder of the real galaxies"
    return pd.read_csv(real / PUBLISHED, dtype={"objID": "int64"})


def measure(true, pred):
    "All numbers, by size of the cutout"
    found = {}
    for px, p in pred.items():
        row = {**scores(true, p), "share_above_9.1": float((p > RICH).mean())}
        row["calibration_slope"] = bootstrap(calibration_slope, true, p)
        row["rmse_recalibrated"] = bootstrap(rmse, true, onto_the_line(true, p))
        if px != 128: row["rmse_minus_128_px"] = paired_difference(rmse, true, p, pred[128])
        found[str(px)] = row
    return found


def steps(true, pred):
    "What each halving of the picture costs, as it is and after a straight line through either network's predictions"
    moved = {px: onto_the_line(true, p) for px, p in pred.items()}
    pairs = list(zip(SIZES[1:], SIZES))
    return {f"{small} - {large} px": {"as they are": paired_difference(rmse, true, pred[small], pred[large]),
                                      "recalibrated": paired_difference(rmse, true, moved[small], moved[large])}
            for small, large in pairs}


def together(true, pred):
    "Do networks of several sizes know more than one?"
    error = {px: p - true for px, p in pred.items()}
    columns = np.stack([pred[px] for px in SIZES])
    half = np.random.default_rng(0).permutation(len(true)) % 2
    stacked = np.empty(len(true))
    for k in (0, 1):
        design = np.vstack([columns, np.ones(len(true))]).T
        weights = np.linalg.lstsq(design[half != k], true[half != k], rcond=None)[0]
        stacked[half == k] = design[half == k] @ weights
    return {"error_correlation_128_64_px": bootstrap(pearson, error[128], error[64]),
            "rmse_of_mean_128_64_px": bootstrap(rmse, true, (pred[128] + pred[64]) / 2),
            "rmse_of_linear_stack_of_all": bootstrap(rmse, true, stacked)}


def share_of_squares(true, pred):
    "Share of the squared error that the largest residuals carry"
    square = np.sort((pred - true) ** 2)[::-1]
    return {f"largest {share:.0%}": float(square[:round(share * len(square))].sum() / square.sum())
            for share in (0.01, 0.05)}


def label_grid(true):
    "Labels in gaps of 0.02 dex, and the mean of the two neighbors as wide"
    def count(low, high): return int(((low <= true) & (true < high)).sum())
    return {name: {"n": count(low, high), "beside": (count(low - 0.02, low) + count(high, high + 0.02)) / 2}
            for name, (low, high) in GAPS.items()}


def beyond(true, pred):
    "What the predictions allow to say and the paper does not"
    p = pred[128]
    tables = {"by_observed": binned_errors(true, p), "by_predicted": binned_errors(true, p, by=p)}
    return {"steps": steps(true, pred), "together": together(true, pred),
            "squared_error": share_of_squares(true, p), "labels_in_gaps": label_grid(true),
            "searches": {name: search_quality(true, p, *ends) for name, ends in SEARCHES.items()},
            "samples": rmse_of_samples(true, p, SAMPLES).to_dict("records"),
            **{name: table.to_dict("records") for name, table in tables.items()}}


def points(ax, x, values, style, label):
    "Values with their intervals"
    value, low, high = (np.array([v[k] for v in values]) for k in ("value", "lo", "hi"))
    ax.errorbar(x, value, [value - low, high - value], label=label, capsize=2, **style)


def plot_sizes(ax, by_size):
    "RMSE by size of the picture, as it is and after a straight line"
    sizes = [int(px) for px in by_size]
    points(ax, np.array(sizes) * 1.04, [v["rmse"] for v in by_size.values()], OPEN, "as it is")
    moved = [v["rmse_recalibrated"] for v in by_size.values()]
    points(ax, np.array(sizes) / 1.04, moved, FILLED, "on a straight line to the truth")
    for px, v in by_size.items():
        slope = f"slope\n{v['calibration_slope']['value']:.3f}"
        ax.annotate(slope, (int(px), 0.0803), ha="center", fontsize=7, color="0.35")
    ax.set_xscale("log", base=2)
    ax.set(xlabel="width of the picture [px]", ylabel="RMSE [dex]", xlim=(12, 170), ylim=(0.0795, 0.108))
    ax.set_xticks(sizes, sizes)


def plot_bias(ax, found):
    "Mean bias in bins of the observed and of the predicted value"
    ax.axhline(0, color="0.6", lw=0.8)
    for key, style in (("by_observed", OPEN), ("by_predicted", FILLED)):
        table = pd.DataFrame(found[key])
        error = [table["bias"] - table["bias_lo"], table["bias_hi"] - table["bias"]]
        ax.errorbar(table["center"], table["bias"], error, label=key.replace("_", " the ") + " value", **style)
    ax.set(xlabel="12 + log(O/H)", ylabel="mean of predicted - observed [dex]", ylim=(-0.27, 0.3))


def plot_searches(ax, searches):
    "Completeness and purity of searches for metal-poor galaxies"
    below = {float(name.split()[1]): v for name, v in searches.items() if name.startswith("below")}
    for key, style in (("completeness", OPEN), ("purity", FILLED)):
        points(ax, list(below), [v[key] for v in below.values()], style, key)
    for z, v in below.items():
        ax.annotate(f"{v['completeness']['n']:,}", (z, 0.03), ha="center", fontsize=7, color="0.35")
    ax.set(xlabel="searched: predicted below this 12 + log(O/H)", ylabel="share", ylim=(0, 1))


def plot_samples(ax, samples, value, few):
    "Range of the RMSE over samples, and the error of our 400"
    table = pd.DataFrame(samples)
    ax.fill_between(table["n"], table["low"], table["high"], color="0.85", label="95 % of random samples")
    ax.axhline(value, color=OBSERVED, lw=1, label="all of them")
    points(ax, [few["n"]], [few], FILLED | {"fmt": "o"}, "this package, 400 other galaxies")
    ax.set(xscale="log", xlabel="galaxies in the sample", ylabel="RMSE [dex]")


def conditional_figure(result, few):
    "Calibration, bias, searches and samples"
    fig = Figure(figsize=(9.5, 7), layout="constrained")
    axes = fig.subplots(2, 2).ravel()
    plot_sizes(axes[0], result["by_size_px"])
    plot_bias(axes[1], result)
    plot_searches(axes[2], result["searches"])
    plot_samples(axes[3], result["samples"], result["by_size_px"]["128"]["rmse"]["value"], few)
    n = f"n = {result['by_size_px']['128']['rmse']['n']:,}"
    titles = "four networks, ", "128 px, ", "128 px, metal-poor galaxies of ", "128 px, samples of "
    for ax, what in zip(axes, titles):
        panel_titles(ax, "SDSS, real", what + n)
        ax.legend(frameon=False, fontsize=8)
    fig.suptitle("Predictions of Wu & Boada 2019 (a later run than that of their tables)", fontsize=10)
    return fig


def main(real):
    table = published_predictions(real)
    true = table["oh_p50"].to_numpy()
    pred = {px: table[f"pred_{px}"].to_numpy() for px in SIZES}
    found = measure(true, pred)
    result = {"bootstrap": {"resamples": N_BOOT, "level": BOOTSTRAP_LEVEL, "unit": "galaxy"},
              "observed_share_above_9.1": float((true > RICH).mean()), "by_size_px": found, **beyond(true, pred)}
    what = "predictions of Wu & Boada 2019 (one network per size, not the ensemble), 12 + log(O/H) [dex]"
    write_results(RESULTS / "paper_predictions.json", result, what, "real", len(table))
    note = "predictions of Wu & Boada 2019, 128 px"
    save_figure(RESULTS / "paper_predictions.png", density_figure(true, pred[128], sky="SDSS, real", note=note))
    few = read_json(RESULTS / "real_sample.json")["over_seeds"]["rmse"]["cnn"]
    save_figure(RESULTS / "paper_conditional.png", conditional_figure(result, few))
    for px, v in found.items():
        values = v["rmse"]["value"], v["nmad"]["value"], v["median_bias"]["value"]
        print("{:>4} px  RMSE {:.4f}  NMAD {:.4f}  median {:+.4f}".format(px, *values))


if __name__ == "__main__":
    option_parser(__doc__).parse_args()
    main(real_folder(PUBLISHED))
