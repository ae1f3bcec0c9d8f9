"""What 400 real labels can do, with nothing chosen on the galaxies that score it.

    GALAXY_CNN_REAL=... python benchmarks/real_sample.py [--seeds 1 2 3] [--work runs/real_sample] [--out results/real_sample.json]

For each seed the sample is dealt into five folds. `galaxy-cnn train` with no option is run on the galaxies outside a fold and predicts the fold, five times. In the same folds: predict-the-mean, ridge,
random forest, Gaussian process, and `galaxy-cnn train --init none --folds 5` on the whole sample, a network from scratch for each fold. Runs are kept in --work, and found there by the next call.

    ... --curve          the learning curve instead: 50, 80, 160, 320 labels, one of the folds, results/learning_curve.json and .png
"""
import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from galaxy_cnn.baselines import baseline_predictions
from galaxy_cnn.features import measure
from galaxy_cnn.figures import MODEL_NAMES, density_figure, new_figure, panel_titles, save_figures
from galaxy_cnn.files import read_json, write_json
from galaxy_cnn.metrics import bootstrap, coverage, nmad, paired_difference, rmse, scores
from galaxy_cnn.ood import ood_features_of_files
from galaxy_cnn.run import read_run
from galaxy_cnn.splits import assign_folds
from galaxy_cnn.survey import read_survey
from galaxy_cnn.uncertainty import INTERVAL_LEVELS, ErrorModel

COMMAND, FOLDS, BASELINES = Path(sys.executable).with_name("galaxy-cnn"), 5, ("mean", "ridge", "random_forest_image", "gaussian_process")
SIZES, CURVE_FOLDS = (50, 80, 160, 320), 1


def trained(survey_path, out, *options):
    "The Run that `galaxy-cnn train` makes, or made before, and its seconds"
    if not (out / "seconds.json").is_file():
        began = time.perf_counter()
        subprocess.run([COMMAND, "train", survey_path, "--out", out, *options], check=True, stdout=subprocess.DEVNULL)
        write_json(out / "seconds.json", round(time.perf_counter() - began))
    return read_run(out), read_json(out / "seconds.json")


def part(survey, rows, folder):
    "A Survey of some of the galaxies; the images are links"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "images").exists(): (folder / "images").symlink_to((survey.path / "images").resolve())
    survey.catalog.iloc[rows].to_csv(folder / "catalog.csv", index=False)
    return folder


def one_seed(survey, seed, work, features):
    "Held-out predictions of everything, intervals, flags and seconds"
    fold, n = assign_folds(survey.catalog, FOLDS, seed), len(survey)
    files, pred = np.array(survey.image_files), {name: np.zeros(n) for name in ("cnn", *BASELINES)}
    ends, flag, seconds = {level: np.zeros((2, n)) for level in INTERVAL_LEVELS}, np.zeros(n, bool), []
    for k in range(FOLDS):
        out, folder = np.flatnonzero(fold == k), work / f"seed{seed}/fold{k}"
        run, took = trained(part(survey, np.flatnonzero(fold != k), folder / "survey"), folder / "default")
        errors, found = ErrorModel.load(run.path), run.predict(files[out])
        pred["cnn"][out], flag[out] = found.mean[:, 0], errors.detector.flag(ood_features_of_files(files[out]))
        for level in INTERVAL_LEVELS: ends[level][:, out] = errors.calibrations["metallicity"].interval(found.mean[:, 0], found.sigma[:, 0], level)
        others = baseline_predictions(survey, fold != k, seed=seed, features=features, names=BASELINES)
        for name in BASELINES: pred[name][out] = others[name][out]
        seconds.append(took)
    scratch, _ = trained(survey.path, work / f"seed{seed}/scratch", "--init", "none", "--folds", str(FOLDS), "--seed", str(seed))
    pred["scratch"] = scratch.predict(survey).mean[:, 0]
    return pred, ends, flag, seconds


def scored(true, seed, pred, ends, flag, seconds):
    "Numbers of one seed"
    others = [name for name in pred if name != "cnn"]
    widths = {level: bootstrap(lambda w: w.mean(-1), hi - lo) for level, (lo, hi) in ends.items()}
    constant = {level: 2 * np.quantile(np.abs(true - pred["cnn"]), coverage(true, *e)["value"]) for level, e in ends.items()}
    return {"seed": seed, "arch": "xresnet_tiny", "n": len(true), "cnn": scores(true, pred["cnn"]), "baselines": {name: scores(true, pred[name]) for name in others},
            "cnn_minus": {name: {f.__name__: paired_difference(f, true, pred["cnn"], pred[name]) for f in (rmse, nmad)} for name in others},
            "intervals": {f"{level:g}": {"coverage": coverage(true, *e), "mean_width": widths[level], "constant_width": constant[level]} for level, e in ends.items()},
            "flagged": int(flag.sum()), "train_seconds": seconds}


def over_seeds(true, preds):
    "Mean over seeds of the RMSE and of the paired differences, intervals by drawing galaxies"
    def mean_rmse(t, *p): return np.mean([rmse(t, q) for q in p], 0)
    def difference(t, *p): return mean_rmse(t, *p[:len(preds)]) - mean_rmse(t, *p[len(preds):])
    ours = [p["cnn"] for p in preds]
    return {"rmse": {name: bootstrap(mean_rmse, true, *(p[name] for p in preds)) for name in preds[0]},
            "cnn_minus": {name: bootstrap(difference, true, *ours, *(p[name] for p in preds)) for name in preds[0] if name != "cnn"}}


def cross_validation(survey, seeds, work, out):
    "The main table"
    true, features = survey.target("metallicity"), measure(survey.image_files)
    found = [one_seed(survey, seed, work, features) for seed in seeds]
    _, whole = trained(survey.path, work / "whole")
    runs = [scored(true, seed, *f) for seed, f in zip(seeds, found)]
    write_json(out, {"what": "5-fold cross-validation on 400 real galaxies of what `galaxy-cnn train` does by default, 12 + log(O/H) [dex]", "sky": "real", "cores": os.cpu_count(),
                     "precision": read_run(work / "whole").card["precision"], "train_seconds_on_400": whole, "over_seeds": over_seeds(true, [f[0] for f in found]), "runs": runs})
    save_figures(out.parent, {"real_density": density_figure(true, found[0][0]["cnn"], "metallicity", "sdss_sample (real)", "held-out galaxies")})
    for name, v in read_json(out)["over_seeds"]["rmse"].items(): print(f"{name:24} RMSE {v['value']:.4f} ({v['lo']:.4f}, {v['hi']:.4f}), mean of {len(seeds)} seeds")


def curve(survey, seeds, work, out):
    "RMSE against the number of labels: default, from scratch (five folds, averaged), Gaussian process"
    true, files, features, rows = survey.target("metallicity"), np.array(survey.image_files), measure(survey.image_files), []
    for n in SIZES:
        kept = {"default": [], "scratch": [], "gaussian_process": []}
        for seed in seeds:
            fold = assign_folds(survey.catalog, FOLDS, seed)
            for k in range(CURVE_FOLDS):
                out_rows, folder = np.flatnonzero(fold == k), work / f"seed{seed}/fold{k}"
                rows_n = np.random.default_rng(seed).permutation(np.flatnonzero(fold != k))[:n]
                where = part(survey, np.sort(rows_n), folder / f"survey{n}") if n < SIZES[-1] else folder / "survey"
                kept["default"].append(trained(where, folder / (f"default{n}" if n < SIZES[-1] else "default"))[0].predict(files[out_rows]).mean[:, 0] - true[out_rows])
                kept["scratch"].append(trained(where, folder / f"scratch{n}", "--init", "none", "--folds", "5")[0].predict(files[out_rows]).mean[:, 0] - true[out_rows])
                mask = np.isin(np.arange(len(survey)), rows_n) if n < SIZES[-1] else fold != k
                kept["gaussian_process"].append(baseline_predictions(survey, mask, seed=seed, features=features, names=("gaussian_process",))["gaussian_process"].to_numpy()[out_rows] - true[out_rows])
        residuals = {name: np.concatenate(v) for name, v in kept.items()}
        rows.append({"labels": n, **{name: bootstrap(rmse, np.zeros(len(r)), r) for name, r in residuals.items()},
                     **{f"default_minus_{name}": paired_difference(rmse, np.zeros(len(r)), residuals["default"], r) for name, r in residuals.items() if name != "default"}})
        print({k: v if k == "labels" else round(v["value"], 4) for k, v in rows[-1].items()}, flush=True)
    write_json(out, {"what": "RMSE [dex] on held-out real galaxies against the number of labels", "sky": "real", "seeds": seeds, "folds": CURVE_FOLDS, "rows": rows})
    save_figures(out.parent, {out.stem: curve_figure(rows)})


def curve_figure(rows):
    "The learning curve"
    fig = new_figure(5.5, 3.8)
    ax = fig.subplots()
    names = {"scratch": "network from scratch", "gaussian_process": MODEL_NAMES["gaussian_process"], "default": "default: pretrained network, GP on its readings"}
    for i, ((name, label), colour) in enumerate(zip(names.items(), ("0.5", "#1f5f99", "#c1272d"))):
        value, lo, hi = (np.array([r[name][key] for r in rows]) for key in ("value", "lo", "hi"))
        ax.errorbar(np.array([r["labels"] for r in rows]) * 1.03 ** (i - 1), value, [value - lo, hi - value], fmt="o-", ms=4, capsize=2, color=colour, label=label)
    ax.set(xscale="log", xlabel="labels", ylabel="RMSE of 12 + log(O/H) [dex]", xticks=SIZES, xticklabels=SIZES)
    ax.minorticks_off()
    ax.axhline(0.0851, color="0.6", ls=":", lw=1)
    ax.annotate("96,000 labels (Wu & Boada 2019)", (SIZES[0], 0.0851), (0, 3), textcoords="offset points", fontsize=7, color="0.4")
    ax.legend(frameon=False, fontsize=8)
    panel_titles(ax, "sdss_sample (real)", f"held-out galaxies, n = {rows[0]['default']['n']}")
    return fig


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the outer folds; `train` deals its own with seed 0, so 0 is not one of them")
    parser.add_argument("--work", type=Path, default=Path("runs/real_sample"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--curve", action="store_true")
    args = parser.parse_args()
    survey = read_survey(Path(os.environ["GALAXY_CNN_REAL"]) / "sdss_sample")
    do, name = (curve, "learning_curve") if args.curve else (cross_validation, "real_sample")
    do(survey, args.seeds, args.work.resolve(), args.out or Path(f"results/{name}.json"))


if __name__ == "__main__": main()
