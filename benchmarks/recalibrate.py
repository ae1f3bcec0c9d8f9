"""What a few labels of other pictures are worth: errors, bias, coverage before and after `galaxy-cnn recalibrate`.

    GALAXY_CNN_REAL=FOLDER python benchmarks/recalibrate.py [--work runs/recalibrate] [--draws 50] [--out FILE]

Real: the shipped defaults (five networks, each with a Gaussian process) are trained on 218 of the 400 galaxies in
FOLDER/sdss_sample. Mock: one network on 400 of 1,200 simulated galaxies. The pictures of the others are changed in
memory as in `shift.py`. Then 25, 50, 100 (and on the mock 300) of them, drawn again and again, are the labeled ones,
and all the others are scored. Lines are fitted, chosen and calibrated by the functions that the command uses, from one
prediction of each picture. Fine-tuning trains, so it is done by the command itself, once for two of the changes, with
the most labels that there are. Intervals draw galaxies, each with its mean over the draws.
Writes results/recalibrate.json and .png.
"""
import shutil

import numpy as np
from harness import option_parser, real_folder, save_figure, write_results
from PIL import Image
from shift import blurred, levels, reddened, reordered, split_run

from galaxy_cnn.figures import new_figure
from galaxy_cnn.images import read_images
from galaxy_cnn.metrics import bootstrap, coverage, rmse
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.recalibrate import LINES, fit_line, held_out_lines, on_lines, recalibrate
from galaxy_cnn.run import read_run
from galaxy_cnn.survey import read_survey, write_survey
from galaxy_cnn.train import train
from galaxy_cnn.uncertainty import ErrorModel, Prediction, fit_calibration

LABELS = (25, 50, 100, 300)
LEVELS = (0.68, 0.90)
CHANGES = {
    "none": lambda images: images,
    "reddened, E(B-V) 0.10": lambda images: reddened(images, 0.1),
    "levels x 0.8": lambda images: levels(images, 0.8),
    "blurred by 2 px": lambda images: blurred(images, 2),
    "bands reversed": lambda images: reordered(images, "210"),
}
TUNED = ("levels x 0.8", "bands reversed")  # those that fine-tuning is tried on


# ---- lines: fitted, chosen and calibrated as the command does it, on predictions that are there

def corrected(true, pred, sigma, rows, rng):
    "The way chosen for some labeled galaxies, and means and interval ends of all"
    y, p = true[rows], pred[rows]
    fold = rng.permutation(len(rows)) % 5
    held = {m: held_out_lines(y, p, fold, m) for m in LINES}
    errors = {m: rmse(y, on_lines(p, lines, fold)) for m, lines in held.items()}
    method = min(errors, key=errors.get)
    intercept, slope = fit_line(y, p, method)
    calibration = fit_calibration(y, on_lines(p, held[method], fold), held[method][fold, 1] * sigma[rows])
    mean = intercept + slope * pred
    return method, mean, {level: calibration.interval(mean, slope * sigma, level) for level in LEVELS}


def summary(residual, inside):
    "Error, bias and coverage from tables [draws, galaxies] with NaN for those that were labeled"
    def over_draws(table): return np.nanmean(table[:, np.isfinite(table).any(0)], 0)
    found = {"rmse": bootstrap(lambda s: np.sqrt(s.mean(-1)), over_draws(residual**2)),
             "bias": bootstrap(lambda r: r.mean(-1), over_draws(residual))}
    for level, table in inside.items():
        found[f"coverage_{level:g}"] = bootstrap(lambda i: i.mean(-1), over_draws(table))
        found[f"coverage_{level:g}"]["draws_5_95"] = np.quantile(np.nanmean(table, 1), [0.05, 0.95]).tolist()
    return found


def before(true, prediction, errors):
    "The Run as it was, on all galaxies"
    mean, sigma = prediction.mean[:, 0], prediction.sigma[:, 0]
    ends = {level: errors.interval(mean, sigma, level) for level in LEVELS}
    inside = {level: ((lo <= true) & (true <= hi))[None].astype(float) for level, (lo, hi) in ends.items()}
    return {"labels": 0, **summary((mean - true)[None], inside)}


def after(true, prediction, n, draws):
    "With n labels, over draws of them"
    residual = np.full((draws, len(true)), np.nan)
    inside = {level: residual.copy() for level in LEVELS}
    methods = []
    for k in range(draws):
        rng = np.random.default_rng([n, k])
        rows = rng.permutation(len(true))[:n]
        method, mean, ends = corrected(true, prediction.mean[:, 0], prediction.sigma[:, 0], rows, rng)
        others = np.setdiff1d(np.arange(len(true)), rows)
        residual[k, others] = (mean - true)[others]
        for level, (lo, hi) in ends.items(): inside[level][k, others] = ((lo <= true) & (true <= hi))[others]
        methods.append(method)
    chosen = {m: methods.count(m) / draws for m in LINES}
    return {"labels": n, "scored": len(true) - n, "chosen": chosen, **summary(residual, inside)}


# ---- fine-tuning: the command itself

def as_survey(survey, images, rows, folder):
    "Some galaxies with their changed pictures, without loss, as a Survey"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    catalog = survey.catalog.iloc[rows].reset_index(drop=True)
    for objID, image in zip(catalog["objID"], images[rows]):
        Image.fromarray(image).save(folder / "images" / f"{objID}.png")
    return write_survey(folder, catalog, survey.info)


def fine_tuned(run, survey, images, n, work):
    "What the command chooses with n labels, its errors, and those of the Run that it makes on the other galaxies"
    order = np.random.default_rng(n).permutation(len(images))
    rows, others = order[:n], order[n:]
    shutil.rmtree(work / "child", ignore_errors=True)
    child = recalibrate(run, as_survey(survey, images, rows, work / "labeled"), work / "child")
    done = child.card["recalibration"]
    true, answer = survey.target("metallicity")[others], child.predict(images[others])
    mean, sigma = answer.mean[:, 0], answer.sigma[:, 0]
    errors = ErrorModel.load(child.path).calibrations["metallicity"]
    held = {f"coverage_{level:g}": coverage(true, *errors.interval(mean, sigma, level)) for level in LEVELS}
    return {"labels": n, "chosen": done["method"], "cross_validated_rmse": done["rmse"]["metallicity"],
            "sentence": done["sentence"], "rmse": bootstrap(rmse, true, mean), **held}


# ---- the two skies

def real_sky(work):
    "Run, and the galaxies that it has not seen"
    survey = read_survey(real_folder("sdss_sample") / "sdss_sample")
    run, rows = split_run(survey, work / "real")
    return run, survey.select(np.isin(np.arange(len(survey)), rows))


def mock_sky(work):
    "The same of a simulated sky"
    folder = work / "mock"
    if not folder.exists(): make_mock(folder, n=1200, seed=7, workers=1)
    survey = read_survey(folder)
    out = work / "mock-run"
    if not (out / "detector.npz").is_file():
        part = as_survey(survey, read_images(survey.image_files), np.arange(400), work / "mock-part")
        train(part, out, arch="xresnet_tiny", init="pretrained", split_by="random", resume=out.exists())
    return read_run(out), survey.select(np.arange(1200) >= 400)


def remembered(file, predict):
    "A prediction, found again by the next call"
    if not file.is_file():
        found = predict()
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, mean=found.mean, aleatoric=found.aleatoric, epistemic=found.epistemic)
    with np.load(file) as arrays: return Prediction(**arrays)


def measured(sky, run, survey, work, draws):
    "All changes of one sky"
    errors, true = ErrorModel.load(run.path).calibrations["metallicity"], survey.target("metallicity")
    images, found = read_images(survey.image_files), []
    sizes = [n for n in LABELS if n <= len(true) - 80]
    for name, change in CHANGES.items():
        pictures = change(images)
        prediction = remembered(work / f"{name}.npz", lambda: run.predict(pictures))
        rows = [before(true, prediction, errors), *(after(true, prediction, n, draws) for n in sizes)]
        found.append({"sky": sky, "change": name, "n": len(true), "rows": rows})
        for row in rows:
            print(f"{sky} {name} {row['labels']}: RMSE {row['rmse']['value']:.4f}, bias {row['bias']['value']:+.3f}, "
                  f"68 and 90 % hold {row['coverage_0.68']['value']:.3f} {row['coverage_0.9']['value']:.3f} "
                  f"{row.get('chosen', '')}", flush=True)
        if name not in TUNED: continue
        found[-1]["with_fine_tuning"] = tuned = fine_tuned(run, survey, pictures, sizes[-1], work)
        print(tuned["sentence"], f"others: RMSE {tuned['rmse']['value']:.4f}", flush=True)
    return found


def figure(found):
    "Coverage and RMSE against the number of labels"
    fig = new_figure(9, 6)
    axes = fig.subplots(2, 2, sharex=True)
    for column, sky in zip(axes.T, ("real", "mock")):
        for of_change in (f for f in found if f["sky"] == sky):
            rows = of_change["rows"]
            at = [max(r["labels"], 12) for r in rows]
            for ax, key in zip(column, ("coverage_0.9", "rmse")):
                values = np.array([[r[key][k] for k in ("value", "lo", "hi")] for r in rows]).T
                ax.errorbar(at, values[0], np.abs(values[1:] - values[0]), fmt="o-", ms=3, lw=1,
                            label=of_change["change"])
        n = next(f["n"] for f in found if f["sky"] == sky)
        column[0].axhspan(0.87, 0.93, color="0.9")
        column[0].set(ylabel="share inside the 90 % intervals", title=f"{sky}, n = {n:,}")
        column[1].set(ylabel="RMSE [dex]", xscale="log", xlabel="labeled galaxies (left: none)", ylim=(0.05, 0.3))
        column[1].set_xticks([12, *LABELS], ["0", *map(str, LABELS)], minor=False)
        column[1].minorticks_off()
    axes[0, 0].legend(fontsize=7)
    return fig


def main(args):
    found = []
    for sky, make in (("real", real_sky), ("mock", mock_sky)):
        run, survey = make(args.work)
        found += measured(sky, run, survey, args.work / sky, args.draws)
    at_100 = [r for f in found for r in f["rows"] if r["labels"] == 100]
    restored = [abs(r[f"coverage_{level:g}"]["value"] - level) <= 0.03 for r in at_100 for level in LEVELS]
    passed = {"coverage within 3 points with 100 labels": all(restored)}
    results = {"draws": args.draws, "changes": found, "pass": passed}
    what = "errors and coverage before and after recalibration on a few labels"
    write_results(args.out, results, what, "real and mock")
    save_figure(args.out.with_suffix(".png"), figure(found))
    print(results["pass"])


if __name__ == "__main__":
    parser = option_parser(__doc__, out="recalibrate.json", work="runs/recalibrate")
    parser.add_argument("--draws", type=int, default=50, help="of the labeled galaxies")
    main(parser.parse_args())
