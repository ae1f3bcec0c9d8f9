"""The error of a network against the number of galaxies that train it: which architecture from how many, on the mock.

    python benchmarks/mock_learning_curve.py ARCH:N[:SEED[:quarter]] ... [--work runs/mock_learning_curve]

A point is one network from scratch, by its recipe as `galaxy-cnn train` has it, trained on N mock galaxies (with seed S
the S-th N of them; at most 40,000), asked about 3,000 galaxies of another mock sky, mean of the eight views. `quarter`
turns xresnet_tiny's training pictures by quarter turns only instead of by any angle; everything else is the same,
random numbers too, so that such a point pairs off with its neighbor without it.
Each point is kept in --work as soon as it is there, and all that are there go into results/mock_learning_curve.json and
.png: without an argument, that alone is done. Processes may share --work; each takes one thread. Skies are drawn
where they are missing, in parts of 5,000 galaxies (35 s of two cores each).
"""
import time
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from harness import CORES, RESULTS, option_parser, write_results
from scipy.stats import t as student

from galaxy_cnn import models
from galaxy_cnn.figures import PICTURE_FLOOR_STYLE, new_figure, panel_titles, save_figures
from galaxy_cnn.files import atomic_path, read_json, write_json
from galaxy_cnn.learner import (
    EpochBar,
    EpochHistory,
    EpochSeed,
    choose_precision,
    default_epochs,
    make_learner,
    resolve_recipe,
    seed_all,
    target_scale,
)
from galaxy_cnn.loaders import in_memory_dls, load_cutouts
from galaxy_cnn.metrics import bootstrap, rmse
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.models import create_model, network_input, predict_tta, random_turns

PART, PARTS, TEST, SIZE = 5000, 8, 3000, 112  # galaxies, parts, galaxies, [px]
SEEDS = {"test": 200, "part": 201}  # of the skies; the parts have those that follow
STEADY = 64  # test galaxies that validate each epoch, for the bar only: nothing is chosen by them


def quarter_turns(n, device="cpu"):
    "`random_turns` with each angle rounded to the nearest quarter turn"
    maps = random_turns(n, device)
    square = maps[..., :2]
    scale = torch.linalg.det(square).abs().sqrt()
    largest = square.abs() >= square.abs().amax(-1, keepdim=True)
    snapped = torch.where(largest, square.sign(), torch.zeros_like(square)) * scale[:, None, None]
    return torch.cat([snapped, maps[..., 2:]], -1)


@lru_cache
def sky(work, name, n, seed):
    "A mock sky and its pixels, drawn where it is missing"
    survey = make_mock(work / name, n=n, seed=seed)
    return survey, load_cutouts(survey, workers=1)[0]


def test_sky(work): return sky(work, "test", TEST, SEEDS["test"])


def galaxies(work, n, seed):
    "Survey and pixels of the seed-th n of the training galaxies, followed by `STEADY` of the test sky; their split"
    first, last = n * seed, n * (seed + 1)
    there = PART * PARTS
    if last > there: raise SystemExit(f"{n} galaxies with seed {seed} would need {last}: there are {there}.")
    parts = [sky(work, f"part{k}", PART, SEEDS["part"] + k) for k in range(first // PART, -(-last // PART))]
    start = first - first // PART * PART
    test, test_pixels = test_sky(work)
    catalog = pd.concat([s.catalog for s, _ in parts], ignore_index=True)[start:start + n]
    catalog = pd.concat([catalog, test.catalog[:STEADY]], ignore_index=True)
    pixels = torch.cat([torch.cat([p for _, p in parts])[start:start + n], test_pixels[:STEADY]])
    return replace(test, catalog=catalog), pixels, ["train"] * n + ["valid"] * STEADY


def answers(model, pixels, stats, precision):
    "Predictions of the mean of eight views"
    model.eval()
    found = []
    for part in pixels.split(64):
        x = network_input(part.movedim(1, 3).numpy(), SIZE, stats)
        found.append(predict_tta(model, x, precision=precision).mean(0)[:, 0])
    return torch.cat(found).numpy()


def fit(work, arch, n, seed, quarter):
    "A trained network's answers on the test sky, and what it took"
    survey, pixels, split = galaxies(work, n, seed)
    models.random_turns = quarter_turns if quarter else random_turns
    recipe, precision = resolve_recipe(arch, n), choose_precision("auto", "cpu")
    epochs = default_epochs(recipe, n, recipe.bs)
    seed_all(seed, 0, -1)
    options = dict(bs=recipe.bs, size=SIZE, seed=seed, augment=recipe.augment, device="cpu")
    dls = in_memory_dls(survey, split, pixels, **options)
    model = create_model(arch, 1, False, *target_scale(survey, split, ["metallicity"]), sigma=True)
    history = EpochHistory([], ["metallicity"])
    bar = EpochBar(history, f"{arch} {n} {seed}")
    learn = make_learner(dls, model, recipe, precision, [EpochSeed(seed, 0), history, bar])
    wall, cpu = time.perf_counter(), time.process_time()
    learn.fit_one_cycle(epochs, recipe.lr)
    spent = {"seconds": round(time.perf_counter() - wall), "cpu_seconds": round(time.process_time() - cpu)}
    settings = {"epochs": epochs, "batch": recipe.bs, "images": n * epochs, "precision": precision}
    return answers(learn.model, test_sky(work)[1], dls.stats, precision), settings | spent


def point_files(work, arch, n, seed, quarter):
    "Where a point is kept: its settings, its predictions"
    stem = work / "points" / f"{arch}-{n}-{seed}{'-quarter' if quarter else ''}"
    return stem.with_suffix(".json"), stem.with_suffix(".npy")


def make_point(work, arch, n, seed, quarter):
    "Train a point that is not there yet, and keep it"
    file, kept = point_files(work, arch, n, seed, quarter)
    if file.is_file(): return
    pred, about = fit(work, arch, n, seed, quarter)
    kept.parent.mkdir(exist_ok=True)
    with atomic_path(kept) as tmp, open(tmp, "wb") as out: np.save(out, pred.astype("float32"))
    write_json(file, {"arch": arch, "n_train": n, "seed": seed, "quarter": quarter, **about})
    print(file.stem, about, flush=True)


def points_there(work):
    "Settings and predictions of all points, by architecture, number, seed and turns"
    files = sorted((work / "points").glob("*.json"))
    found = {}
    for file in files:
        about = read_json(file)
        key = about["arch"], about["n_train"], about["seed"], about["quarter"]
        found[key] = about | {"pred": np.load(file.with_suffix(".npy")).astype(float)}
    return found


def student_mean(values):
    "Mean over seeds and its 95 % interval by Student's t"
    n, mean = len(values), float(np.mean(values))
    arm = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return {"value": mean, "lo": mean - arm, "hi": mean + arm, "n": n}


def mean_rmse(true, *preds): return np.mean([rmse(true, p) for p in preds], 0)


def curve_row(true, arch, n, of_seeds):
    "A point of the curve: RMSE averaged over seeds, interval by drawing galaxies; settings of the first"
    preds = [p["pred"] for p in of_seeds]
    first = {k: of_seeds[0][k] for k in ("epochs", "batch", "images", "precision")}
    spent = float(np.mean([p["cpu_seconds"] for p in of_seeds]))
    each = [float(rmse(true, p)) for p in preds]
    return {"arch": arch, "n_train": n, "rmse": bootstrap(mean_rmse, true, *preds), "rmse_by_seed": each,
            "seeds": [p["seed"] for p in of_seeds], **first, "cpu_seconds": spent}


def difference(true, ours, others):
    "RMSE of some networks minus that of others of the same seeds, galaxies drawn"
    def minus(t, *preds): return mean_rmse(t, *preds[:len(ours)]) - mean_rmse(t, *preds[len(ours):])
    return bootstrap(minus, true, *ours, *others)


def large_minus_tiny(true, points):
    "xresnet18 minus xresnet_tiny wherever both were trained on the same galaxies"
    found = []
    for n in sorted({n for arch, n, *_ in points if arch == "xresnet18"}):
        seeds = [s for arch, m, s, quarter in points if arch == "xresnet18" and m == n and not quarter]
        pairs = [s for s in seeds if ("xresnet_tiny", n, s, False) in points]
        if not pairs: continue
        ours, others = ([points[arch, n, s, False]["pred"] for s in pairs] for arch in ("xresnet18", "xresnet_tiny"))
        found.append({"n_train": n, "seeds": pairs, **{"difference": difference(true, ours, others)}})
    return found


def turns(true, points):
    "xresnet_tiny turned by any angle minus by quarter turns, paired over seeds"
    found = []
    for n in sorted({n for arch, n, s, quarter in points if quarter}):
        seeds = [s for arch, m, s, quarter in points if quarter and m == n and (arch, n, s, False) in points]
        if len(seeds) < 2: continue
        any_angle, quarter = (np.array([float(rmse(true, points["xresnet_tiny", n, s, q]["pred"])) for s in seeds])
                              for q in (False, True))
        found.append({"n_train": n, "any_angle": any_angle.tolist(), "quarter_turns": quarter.tolist(),
                      "any_minus_quarter": student_mean(any_angle - quarter)})
    return found


def summary(true, points):
    "Everything that goes into the results"
    by_point = {}
    for (arch, n, _, quarter), p in points.items():
        if not quarter: by_point.setdefault((arch, n), []).append(p)
    rows = [curve_row(true, arch, n, of_seeds) for (arch, n), of_seeds in sorted(by_point.items())]
    floor = read_json(RESULTS / "mock_floor.json")["picture_floor"]
    return {"cores": CORES, "size": SIZE, "test": len(true), "picture_floor": floor, "rows": rows,
            "xresnet18_minus_tiny": large_minus_tiny(true, points), "turns": turns(true, points)}


CURVES = {  # how an architecture is drawn
    "xresnet_tiny": {"fmt": "o-", "color": "#c1272d"},
    "xresnet18": {"fmt": "s--", "color": "black", "mfc": "white"},
}


def figure(found):
    "RMSE against the number of training galaxies, with the floor"
    fig = new_figure(5.5, 3.6)
    ax = fig.subplots()
    for shift, (arch, style) in zip((0.98, 1.02), CURVES.items()):
        rows = [r for r in found["rows"] if r["arch"] == arch]
        if not rows: continue
        n = np.array([r["n_train"] for r in rows])
        ends = np.array([[r["rmse"][key] for r in rows] for key in ("lo", "value", "hi")])
        seeds = max(len(r["seeds"]) for r in rows)
        label = f"{arch}, 1 network a point" if seeds == 1 else f"{arch}, mean of 1 to {seeds} networks a point"
        ax.errorbar(n * shift, ends[1], np.diff(ends, axis=0), ms=4, capsize=2, label=label, **style)
    ax.axhline(found["picture_floor"]["value"], **PICTURE_FLOOR_STYLE)
    sizes = sorted({r["n_train"] for r in found["rows"]})
    ax.set(xscale="log", xlabel="training galaxies", ylabel="RMSE of 12 + log(O/H) [dex]", xticks=sizes)
    ax.set_xticklabels([f"{n:,}" for n in sizes])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=8)
    panel_titles(ax, "mock sky", f"another sky, n = {found['test']:,}")
    return fig


def main(args):
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for text in [None, *args.points]:
        if text:
            arch, n, *more = text.split(":")
            seed = int(more[0]) if more else 0
            make_point(args.work, arch, int(n), seed, "quarter" in more)
        points = points_there(args.work)
        if not points: continue
        found = summary(test_sky(args.work)[0].target("metallicity"), points)
        what = "RMSE of 12 + log(O/H) [dex] on other mock galaxies against the number of training galaxies"
        write_results(args.out, found, what, "mock", TEST)
        save_figures(args.out.parent, {args.out.stem: figure(found)})


if __name__ == "__main__":
    parser = option_parser(__doc__, out="mock_learning_curve.json", work="runs/mock_learning_curve")
    parser.add_argument("points", nargs="*", help="ARCH:N[:SEED[:quarter]]")
    main(parser.parse_args())
