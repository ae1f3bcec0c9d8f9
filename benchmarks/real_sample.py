"""What 400 real labels can do, cross-validated.

No galaxy is predicted by a network that was trained on its label. The design did see the labels: recipe, features, the
half-and-half with the Gaussian process and the simulated sky of the pretrained network were chosen by how well they do
on these 400, or by their labels' correlations with image statistics. Expect a few thousandths of a dex more on others.

    GALAXY_CNN_REAL=... python benchmarks/real_sample.py [--seeds 1 2 3] [--work runs/real_sample]
                                                         [--out results/real_sample.json]

For each seed the sample is dealt into five folds. `galaxy-cnn train` with no option is run on the galaxies outside a
fold and predicts the fold, five times. In the same folds: predict-the-mean, ridge, random forest, Gaussian process, and
`galaxy-cnn train --init none --folds 5` on the whole sample, a network from scratch for each fold. Runs are kept in
--work, and found there by the next call. The predictions go to results/real_predictions.csv.

    ... --curve     the learning curve instead: 50, 80, 160, 320 labels, one of the folds of each seed;
                    results/learning_curve.json and .png
"""
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from harness import RESULTS, option_parser, real_folder, write_results

from galaxy_cnn.baselines import baseline_predictions
from galaxy_cnn.features import measure
from galaxy_cnn.figures import MODEL_NAMES, density_figure, new_figure, panel_titles, save_figures
from galaxy_cnn.files import atomic_path, read_json, write_json
from galaxy_cnn.literature import NESTED_RMSE
from galaxy_cnn.metrics import bootstrap, coverage, nmad, paired_difference, rmse, scores
from galaxy_cnn.ood import ood_features_of_files
from galaxy_cnn.run import read_run
from galaxy_cnn.splits import assign_folds
from galaxy_cnn.survey import read_survey
from galaxy_cnn.uncertainty import INTERVAL_LEVELS, ErrorModel

COMMAND = Path(sys.executable).with_name("galaxy-cnn")
FOLDS, CURVE_FOLDS = 5, 1
BASELINES = ("mean", "ridge", "random_forest_image", "gaussian_process")
SIZES = (50, 80, 160, 320)  # labels; the largest is all that lie outside a fold


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
    fold, n, files = assign_folds(survey.catalog, FOLDS, seed), len(survey), np.array(survey.image_files)
    pred = {name: np.zeros(n) for name in ("cnn", *BASELINES)}
    ends = {level: np.zeros((2, n)) for level in INTERVAL_LEVELS}
    flag, seconds = np.zeros(n, bool), []
    for k in range(FOLDS):
        out, folder = np.flatnonzero(fold == k), work / f"seed{seed}/fold{k}"
        run, took = trained(part(survey, np.flatnonzero(fold != k), folder / "survey"), folder / "default")
        seconds.append(took)
        errors, found = ErrorModel.load(run.path), run.predict(files[out])
        pred["cnn"][out] = found.mean[:, 0]
        flag[out] = errors.detector.flag(ood_features_of_files(files[out]))
        intervals = errors.calibrations["metallicity"].intervals(found.mean[:, 0], found.sigma[:, 0])
        for level, interval in intervals.items(): ends[level][:, out] = interval
        others = baseline_predictions(survey, fold != k, seed=seed, features=features, names=BASELINES)
        for name in BASELINES: pred[name][out] = others[name][out]
    options = "--init", "none", "--folds", str(FOLDS), "--seed", str(seed)
    scratch, _ = trained(survey.path, work / f"seed{seed}/scratch", *options)
    pred["scratch"] = scratch.predict(survey).mean[:, 0]
    return pred, ends, flag, seconds


def interval_scores(true, pred, lo, hi):
    "Coverage and width of intervals, and the width of one interval for all that covers as many"
    covered = coverage(true, lo, hi)
    constant = 2 * np.quantile(np.abs(true - pred), covered["value"])
    width = bootstrap(lambda w: w.mean(-1), hi - lo)
    return {"coverage": covered, "mean_width": width, "constant_width": constant}


def scored(true, seed, pred, ends, flag, seconds):
    "Numbers of one seed"
    others, ours = [name for name in pred if name != "cnn"], pred["cnn"]
    def differences(name): return {f.__name__: paired_difference(f, true, ours, pred[name]) for f in (rmse, nmad)}
    return {"seed": seed, "arch": "xresnet_tiny", "n": len(true), "cnn": scores(true, ours),
            "baselines": {name: scores(true, pred[name]) for name in others},
            "cnn_minus": {name: differences(name) for name in others},
            "intervals": {f"{level:g}": interval_scores(true, ours, *e) for level, e in ends.items()},
            "flagged": int(flag.sum()), "train_seconds": seconds}


def over_seeds(true, preds):
    "Mean over seeds of the RMSE and of the paired differences, intervals by drawing galaxies"
    def mean_rmse(t, *p): return np.mean([rmse(t, q) for q in p], 0)
    def difference(t, *p):
        n = len(preds)  # ours come first
        return mean_rmse(t, *p[:n]) - mean_rmse(t, *p[n:])
    by_model = {name: [p[name] for p in preds] for name in preds[0]}
    found = {"rmse": {name: bootstrap(mean_rmse, true, *of_seeds) for name, of_seeds in by_model.items()}}
    ours = by_model.pop("cnn")
    found["cnn_minus"] = {name: bootstrap(difference, true, *ours, *p) for name, p in by_model.items()}
    return found


def cross_validation(survey, seeds, work, out):
    "The main table"
    true, features = survey.target("metallicity"), measure(survey.image_files)
    found = [one_seed(survey, seed, work, features) for seed in seeds]
    _, whole = trained(survey.path, work / "whole")
    runs = [scored(true, seed, *f) for seed, f in zip(seeds, found)]
    averaged = over_seeds(true, [f[0] for f in found])
    precision = read_run(work / "whole").card["precision"]
    what = ("5-fold cross-validation on 400 real galaxies of what `galaxy-cnn train` does by default, "
            "12 + log(O/H) [dex]")
    result = {"cores": os.cpu_count(), "precision": precision, "train_seconds_on_400": whole,
              "over_seeds": averaged, "runs": runs}
    write_results(out, result, what, "real")
    columns = {f"{name}_seed{seed}": pred for seed, f in zip(seeds, found) for name, pred in f[0].items()}
    table = pd.DataFrame({"objID": survey.catalog["objID"], **columns}).round(5)
    with atomic_path(out.parent / "real_predictions.csv") as tmp: table.to_csv(tmp, index=False)
    draw_density(survey, out.parent)
    for name, v in averaged["rmse"].items():
        print(f"{name:24} RMSE {v['value']:.4f} ({v['lo']:.4f}, {v['hi']:.4f}), mean of {len(seeds)} seeds")


def draw_density(survey, folder):
    "Predicted against observed of the first deal, from the stored predictions"
    table = pd.read_csv(folder / "real_predictions.csv", dtype={"objID": "int64"})
    first = next(name for name in table if name.startswith("cnn_"))
    pred = table.set_index("objID")[first].reindex(survey.catalog["objID"]).to_numpy()
    note = f"held out, deal {first.removeprefix('cnn_seed')}"
    drawn = density_figure(survey.target("metallicity"), pred, "metallicity", "sdss_sample (real)", note)
    save_figures(folder, {"real_density": drawn})


def few_labels(survey, fold, k, n, seed, folder):
    "Galaxies outside a fold, n of them as a Survey (all where n is the largest); whether each is one of them"
    if n == SIZES[-1]: return folder / "survey", fold != k
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(fold != k))[:n]
    mask = np.isin(np.arange(len(survey)), rows)
    return part(survey, np.sort(rows), folder / f"survey{n}"), mask


def few_label_residuals(survey, seed, k, n, work, features):
    "Residuals of the galaxies of a fold by models of n labels"
    fold, folder = assign_folds(survey.catalog, FOLDS, seed), work / f"seed{seed}/fold{k}"
    chosen, mask = few_labels(survey, fold, k, n, seed, folder)
    default = folder / ("default" if n == SIZES[-1] else f"default{n}")
    scratch = folder / f"scratch{n}", "--init", "none", "--folds", "5"
    out = np.flatnonzero(fold == k)
    files, true = np.array(survey.image_files)[out], survey.target("metallicity")[out]
    def network(*options): return trained(chosen, *options)[0].predict(files).mean[:, 0]
    pred = {"default": network(default), "scratch": network(*scratch)}
    name = "gaussian_process"
    others = baseline_predictions(survey, mask, seed=seed, features=features, names=(name,))
    pred[name] = others[name].to_numpy()[out]
    return {model: p - true for model, p in pred.items()}


def curve_row(residuals, ids):
    "RMSE of each model, paired differences; a galaxy held out in several deals is drawn with all its residuals"
    zero, ours = np.zeros(len(ids)), residuals["default"]
    row = {name: bootstrap(rmse, zero, r, groups=ids) for name, r in residuals.items()}
    for name, r in residuals.items():
        if name != "default": row[f"default_minus_{name}"] = paired_difference(rmse, zero, ours, r, groups=ids)
    return row | {"galaxies": len(np.unique(ids))}


def curve(survey, seeds, work, out):
    "RMSE against the number of labels: default, from scratch (five folds, averaged), Gaussian process"
    features, rows = measure(survey.image_files), []
    folds = {seed: assign_folds(survey.catalog, FOLDS, seed) for seed in seeds}
    held = [np.flatnonzero(folds[seed] == k) for seed in seeds for k in range(CURVE_FOLDS)]
    ids = survey.catalog["objID"].to_numpy()[np.concatenate(held)]
    for n in SIZES:
        parts = [few_label_residuals(survey, seed, k, n, work, features) for seed in seeds for k in range(CURVE_FOLDS)]
        residuals = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        row = curve_row(residuals, ids)
        print(n, {name: round(v["value"], 4) for name, v in row.items() if name != "galaxies"}, flush=True)
        rows.append({"labels": n, **row})
    result = {"seeds": seeds, "folds": CURVE_FOLDS, "bootstrap_unit": "galaxy", "rows": rows}
    write_results(out, result, "RMSE [dex] on held-out real galaxies against the number of labels", "real")
    save_figures(out.parent, {out.stem: curve_figure(rows)})


def curve_figure(rows):
    "The learning curve"
    fig = new_figure(5.5, 3.8)
    ax = fig.subplots()
    shown = [("scratch", "network from scratch", {"fmt": "^:", "color": "0.45", "mfc": "white"}),
             ("gaussian_process", MODEL_NAMES["gaussian_process"], {"fmt": "s--", "color": "#1f5f99", "mfc": "white"}),
             ("default", "default: pretrained network, GP on its readings", {"fmt": "o-", "color": "#c1272d"})]
    labels = np.array([r["labels"] for r in rows])
    for i, (name, label, style) in enumerate(shown):
        ends = np.array([[r[name][key] for r in rows] for key in ("lo", "value", "hi")])
        ax.errorbar(labels * 1.03 ** (i - 1), ends[1], np.diff(ends, axis=0), ms=4, capsize=2, label=label, **style)
    ax.set(xscale="log", xlabel="labels", ylabel="RMSE of 12 + log(O/H) [dex]", xticks=SIZES, xticklabels=SIZES)
    ax.minorticks_off()
    mean, scatter = NESTED_RMSE["mean"], NESTED_RMSE["std"]
    ax.axhspan(mean - scatter, mean + scatter, color="0.9", lw=0)
    note = f"other galaxies, {NESTED_RMSE['labels']:,} labels: 20 networks of Wu & Boada, mean and s.d."
    ax.annotate(note, (SIZES[0], mean - scatter), (0, -9), textcoords="offset points", fontsize=7, color="0.4")
    ax.legend(frameon=False, fontsize=8)
    n, galaxies = rows[0]["default"]["n"], rows[0]["galaxies"]
    panel_titles(ax, "sdss_sample (real)", f"held out: {galaxies} galaxies in three deals, n = {n}")
    return fig


def main(args):
    survey = read_survey(real_folder("sdss_sample/") / "sdss_sample")
    work, name = args.work.resolve(), "learning_curve" if args.curve else "real_sample"
    make = curve if args.curve else cross_validation
    make(survey, args.seeds, work, args.out or RESULTS / f"{name}.json")


if __name__ == "__main__":
    parser = option_parser(__doc__, work="runs/real_sample")
    seeds = "of the outer folds; `train` deals its own with seed 0, so 0 is not one of them"
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help=seeds)
    parser.add_argument("--out", type=Path, help="the results")
    parser.add_argument("--curve", action="store_true", help="the learning curve instead")
    main(parser.parse_args())
