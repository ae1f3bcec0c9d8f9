"""Does a training that sees disturbed pictures make predictions less brittle, and what does it cost at home?

    GALAXY_CNN_REAL=FOLDER python benchmarks/brittle.py [--only real] [--seeds 2] [--mock-seeds 2] [--work runs/brittle]
                                                        [--out results/brittle.json]

While it trains, a network sees each picture as another camera might have made it: levels times 1 +- 15 %, the color
of a reddening of 0 +- 0.1 mag, blurred by up to 1.5 px (of 128) rms, with up to 1.5 levels of noise. Everything else,
random numbers too, is as in the plain training, so that both answer the same galaxies in pairs.

Real: the 400 galaxies in FOLDER/sdss_sample in five folds, by the recipe for few labels (from the shipped network, with
a Gaussian process beside each, which is taught two disturbed pictures of each galaxy besides the plain one). Mock: an
xresnet_tiny from scratch on 1,000 galaxies (a third of the usual steps), asked about 400 others. The changes are
those of shift.py.
"""
import time
from dataclasses import replace

import numpy as np
import torch
from harness import option_parser, real_folder, write_results
from shift import blurred, levels, reddened

from galaxy_cnn.features import measure_images
from galaxy_cnn.files import read_json
from galaxy_cnn.gaussian_process import GP_WEIGHT, GaussianProcess, gp_inputs
from galaxy_cnn.images import read_images
from galaxy_cnn.learner import (
    RECIPES,
    EpochBar,
    EpochHistory,
    EpochSeed,
    choose_precision,
    default_epochs,
    fine_tuning_recipe,
    make_learner,
    resolve_recipe,
    seed_all,
    target_scale,
)
from galaxy_cnn.literature import REDDENING
from galaxy_cnn.loaders import in_memory_dls
from galaxy_cnn.metrics import bootstrap, paired_difference, rmse
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.models import create_model, network_input, predict_tta
from galaxy_cnn.run import initial_run
from galaxy_cnn.splits import Split
from galaxy_cnn.survey import read_survey
from galaxy_cnn.train import warm_start

WHAT = "plain training against one on disturbed pictures: shifts under changes, cost at home"
ARCH, SIZE, FOLDS = "xresnet_tiny", 112, 5
LEVELS, EBV, BLUR, NOISE = 0.15, 0.1, 1.5, 1.5  # standard deviation, [mag], largest [px of 128], largest [levels]
MOCK_TRAIN, MOCK_TEST, MOCK_STEPS = 1000, 400, 600  # galaxies, galaxies, a third of the recipe's steps
CHANGES = {
    "none": lambda x: x,
    "reddening E(B-V) 0.1": lambda x: reddened(x, 0.1),
    "levels x 0.8": lambda x: levels(x, 0.8),
    "blur 2 px": lambda x: blurred(x, 2),
}


# ---- another camera, on tensors with levels from 0 to 255

def gaussian_blur(x, width):
    "Pictures [B, 3, H, W], each convolved with a Gaussian of its own width [B] [px]"
    reach = torch.arange(-5, 6, device=x.device)
    kernel = torch.exp(-reach**2 / (2 * width[:, None].clamp(min=0.05) ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]
    flat = x.reshape(1, -1, *x.shape[2:])
    for shape, edges in (((-1, 1, 1, 11), (5, 5, 0, 0)), ((-1, 1, 11, 1), (0, 0, 5, 5))):
        padded = torch.nn.functional.pad(flat, edges, "reflect")
        flat = torch.nn.functional.conv2d(padded, kernel.view(shape), groups=flat.shape[1])
    return flat.reshape(x.shape)


def another_camera(x, generator):
    "Pictures as other cameras might have made them"
    def normal(*shape): return torch.randn(*shape, generator=generator)
    def uniform(*shape): return torch.rand(*shape, generator=generator)
    n = len(x)
    gain = (LEVELS * normal(n, 1)).exp()
    tint = 10 ** (-0.4 * EBV * normal(n, 1) * torch.tensor(REDDENING))
    x = gaussian_blur(x, BLUR * uniform(n))
    x = x * (gain * tint / tint.mean(1, keepdim=True))[..., None, None]
    x = x + NOISE * uniform(n, 1, 1, 1) * normal(*x.shape)
    return x.clamp(0, 255)


def disturb(loader, seed):
    "Make a loader of training galaxies give them as other cameras might have made them"
    mean, std = (255 * torch.tensor(s).view(3, 1, 1) for s in loader.stats)
    generator, plain = torch.Generator().manual_seed(seed), loader.batch
    def batch(rows, drawn=None):
        x, y = plain(rows, drawn)
        return (another_camera(x * std + mean, generator) - mean) / std, y
    loader.batch = batch


# ---- one network

def fit(survey, images, split, seed, start=None, disturbed=False):
    "A network trained on galaxies of a split, from a Run or from scratch, and how it normalizes"
    recipe = fine_tuning_recipe(ARCH) if start else replace(RECIPES[ARCH], steps=MOCK_STEPS)
    n = int((np.asarray(split) == "train").sum())
    recipe = resolve_recipe(ARCH, n, recipe=recipe)
    seed_all(seed, 0, -1)
    pixels = torch.from_numpy(images).movedim(3, 1).contiguous()
    stats = start.mean_std(0) if start else None
    dls = in_memory_dls(survey, split, pixels, bs=recipe.bs, size=SIZE, stats=stats, seed=seed, augment=False)
    model = create_model(ARCH, 1, False, *target_scale(survey, split, ["metallicity"]), sigma=True)
    if start: warm_start(model, start, 0, ["metallicity"])
    if disturbed: disturb(dls.train, seed)
    history = EpochHistory([], ["metallicity"])
    callbacks = [EpochSeed(seed), history, EpochBar(history, ARCH, disable=True)]
    learn = make_learner(dls, model, recipe, choose_precision("auto", "cpu"), callbacks)
    learn.fit_one_cycle(default_epochs(recipe, n, recipe.bs), recipe.lr)
    return learn.model.eval(), dls.stats


def answers(model, stats, images):
    "Predictions [n] of a network, mean of eight views"
    parts = [images[i:i + 64] for i in range(0, len(images), 64)]
    return np.concatenate([predict_tta(model, network_input(p, SIZE, stats)).mean(0)[:, 0].numpy() for p in parts])


# ---- the two skies: predictions [seeds, n] by arm and change

def on_real(survey, seeds):
    "Cross-validated predictions of network and Gaussian process, and of either alone"
    images, start = read_images(survey.image_files), initial_run("pretrained")
    true, changed = survey.target("metallicity"), {name: f(images) for name, f in CHANGES.items()}
    frozen = start.card["networks"][0] | {"targets": start.targets}
    def inputs(x): return gp_inputs(start.networks[0], frozen, x, SIZE, measure_images(x))
    known = {name: inputs(x) for name, x in changed.items()}
    plain = torch.from_numpy(images).movedim(3, 1).float()
    draws = [another_camera(plain, torch.Generator().manual_seed(k)).round().byte() for k in range(2)]
    more = [inputs(x.movedim(1, 3).numpy()) for x in draws]
    found = {}
    for seed in range(seeds):
        split = Split.make(survey.catalog, seed, "random", FOLDS)
        for k in range(FOLDS):
            rows, held = split.train(k), split.valid(k)
            for arm in ("plain", "disturbed"):
                model, stats = fit(survey, images, split.for_network(k), seed, start, arm == "disturbed")
                taught = [known["none"][rows], *(x[rows] for x in more if arm == "disturbed")]
                gp = GaussianProcess().fit(np.concatenate(taught), np.tile(true[rows], len(taught)))
                for name, x in changed.items():
                    net, process = answers(model, stats, x[held]), gp.predict(known[name][held])
                    both = GP_WEIGHT * net + (1 - GP_WEIGHT) * process
                    for part, pred in (("both", both), ("network", net), ("process", process)):
                        found.setdefault((part, arm, name), np.zeros((seeds, len(true))))[seed, held] = pred
        print("real, seed", seed, flush=True)
    return true, found


def on_mock(work, seeds):
    "Predictions of networks from scratch for galaxies that they have not seen"
    if not (work / "mock").exists(): make_mock(work / "mock", n=MOCK_TRAIN + MOCK_TEST, seed=11, workers=1)
    survey = read_survey(work / "mock")
    images = read_images(survey.image_files)
    is_test = np.arange(len(survey)) >= MOCK_TRAIN
    split = np.where(is_test, "test", "train").astype(object)
    split[MOCK_TRAIN:MOCK_TRAIN + 64] = "valid"  # for the bar only: nothing is chosen by them
    changed = {name: f(images[is_test]) for name, f in CHANGES.items()}
    found = {}
    for seed in range(seeds):
        for arm in ("plain", "disturbed"):
            model, stats = fit(survey, images, split, seed, disturbed=arm == "disturbed")
            for name, x in changed.items():
                found.setdefault(("network", arm, name), np.zeros((seeds, is_test.sum())))[seed] = answers(
                    model, stats, x
                )
        print("mock, seed", seed, flush=True)
    return survey.target("metallicity")[is_test], found


# ---- what came of it

def mean_rmse(true, *preds): return np.mean([rmse(true, p) for p in preds], 0)


def compared(true, found):
    "Shift and RMSE by part, change and arm; what the disturbed training costs at home, by seed and together"
    table, cost = [], {}
    for part in dict.fromkeys(part for part, _, _ in found):
        for name in CHANGES:
            row = {"part": part, "change": name}
            for arm in ("plain", "disturbed"):
                pred = found[part, arm, name]
                moved = (pred - found[part, arm, "none"]).mean(0)
                row[arm] = {
                    "shift_dex": bootstrap(lambda d: d.mean(-1), moved),
                    "rmse": bootstrap(mean_rmse, true, *pred),
                }
            table.append(row)
        pairs = [paired_difference(rmse, true, b, a)
                 for a, b in zip(found[part, "plain", "none"], found[part, "disturbed", "none"])]
        n = len(pairs)
        def difference(t, *p): return mean_rmse(t, *p[:n]) - mean_rmse(t, *p[n:])
        both = bootstrap(difference, true, *found[part, "disturbed", "none"], *found[part, "plain", "none"])
        values = [p["value"] for p in pairs]
        scatter = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else None
        cost[part] = {"rmse_difference_dex": both, "by_seed": values, "standard_error_over_seeds": scatter}
    return {"n": len(true), "seeds": n, "changes": table, "cost_at_home": cost}


def main(args):
    survey = read_survey(real_folder("sdss_sample") / "sdss_sample")
    found = {"disturbances": {"levels, std": LEVELS, "E(B-V) [mag], std": EBV, "blur [px of 128], most": BLUR,
                              "noise [levels], most": NOISE}}
    skies = {"real": lambda: on_real(survey, args.seeds), "mock": lambda: on_mock(args.work, args.mock_seeds)}
    for sky in args.only or skies:
        began = time.process_time()
        found[sky] = compared(*skies[sky]()) | {"cpu_seconds": round(time.process_time() - began)}
        known = read_json(args.out) if args.out.is_file() else {}
        found = {other: known[other] for other in skies if other in known} | found
        write_results(args.out, found, WHAT)
        for row in found[sky]["changes"]:
            print(sky, row["part"], row["change"], *(f"{arm} {row[arm]['shift_dex']['value']:+.4f} dex, "
                  f"RMSE {row[arm]['rmse']['value']:.4f}" for arm in ("plain", "disturbed")), flush=True)
        print(sky, {k: (v["rmse_difference_dex"], v["by_seed"]) for k, v in found[sky]["cost_at_home"].items()})


if __name__ == "__main__":
    parser = option_parser(__doc__, out="brittle.json", work="runs/brittle")
    parser.add_argument(
        "--only", nargs="+", choices=("real", "mock"), help="one sky; the other stays in --out as it is"
    )
    parser.add_argument("--seeds", type=int, default=2, help="cross-validations of the real galaxies")
    parser.add_argument("--mock-seeds", type=int, default=2, help="networks on the mock")
    main(parser.parse_args())
