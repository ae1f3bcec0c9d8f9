"""Does it help to let uncertain labels count less?

    python benchmarks/label_noise.py [--n 3000] [--epochs 24] [--seeds 0 1 2 3 4] [--out results/label_noise.json]

Small networks on a mock sky, where the truth is known, with and without the catalog's own errors in the loss. Weighted:
each squared residual counts 1 / (scatter^2 + sigma^2), sigma = (oh_p84 - oh_p16) / 2, scatter = 0.08 dex (what an
unlimited number of labels leaves on this sky). Scored against the noise-free truth of held-out galaxies, paired over
seeds (split, initial weights and order of batches are the same for both).
"""
import tempfile
from pathlib import Path

import numpy as np
import torch
from fastai.data.core import DataLoaders
from harness import option_parser, write_results
from torch import nn

from galaxy_cnn.images import read_images
from galaxy_cnn.learner import RECIPES, EpochSeed, choose_precision, make_learner, seed_all
from galaxy_cnn.loaders import CutoutDataset, InMemoryLoader, image_statistics
from galaxy_cnn.metrics import bootstrap, rmse
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.models import create_model, network_input, predict_tta
from galaxy_cnn.run import map_slices
from galaxy_cnn.splits import assign_split

SCATTER = 0.08  # dex


class Weighted(nn.Module):
    "Root of the weighted mean square residual; targets are [B, 2]: label, weight"
    def forward(self, pred, y):
        label, weight = y.unbind(1)
        squares = (pred[:, 0] - label) ** 2
        return ((squares * weight).sum() / weight.sum()).clamp_min(1e-12).sqrt()


def fit(images, y, weight, rows, stats, seed, epochs, precision):
    "Truths predicted for all images by a network trained on `rows`"
    recipe = RECIPES["xresnet_tiny"]
    seed_all(seed, 0, -1)
    pixels = torch.from_numpy(images).movedim(3, 1).contiguous()
    labels = torch.tensor(np.stack([y, weight], 1), dtype=torch.float32)
    data = CutoutDataset(pixels, labels, torch.as_tensor(rows))
    options = dict(bs=recipe.bs, device=torch.device("cpu"))
    train = InMemoryLoader(data, stats, shuffle=True, drop_last=True, **options)
    valid = InMemoryLoader(data, stats, **options)
    model = create_model("xresnet_tiny", 1, mean=[y[rows].mean()], std=[y[rows].std()])
    learn = make_learner(DataLoaders(train, valid, device="cpu"), model, recipe, precision, [EpochSeed(seed)])
    learn.loss_func = Weighted()
    learn.fit_one_cycle(epochs, recipe.lr)
    model.eval()
    def predict(part):
        x = network_input(images[part], 112, stats)
        return predict_tta(model, x, precision=precision).mean(0)[:, 0].double().numpy()
    return np.concatenate(map_slices(predict, len(images), 8))


def paired(equal, weighted):
    "Mean difference over the seeds and its 95 % interval by Student's t"
    difference = np.array([b["value"] - a["value"] for a, b in zip(equal, weighted)])
    n, mean = len(difference), difference.mean()
    half = float("nan")
    if n == 5: half = 2.776 * difference.std(ddof=1) / n**0.5  # t of 4 degrees of freedom
    return {"value": mean, "lo": mean - half, "hi": mean + half, "n": n}


def main(args):
    with tempfile.TemporaryDirectory() as folder:
        survey = make_mock(Path(folder) / "sky", n=args.n, seed=21)
        images = read_images(survey.image_files, 112)
        stats = image_statistics(survey.image_files)
    y, truth = survey.target("metallicity"), survey.truth("metallicity")
    sigma = (survey.target("oh_p84") - survey.target("oh_p16")) / 2
    weights = {"equal": np.ones(len(y)), "by label error": 1 / (SCATTER**2 + sigma**2)}
    precision, found = choose_precision("auto", "cpu"), {name: [] for name in weights}
    for seed in args.seeds:
        split = assign_split(survey.catalog, seed)
        train, test = np.flatnonzero(split == "train"), split == "test"
        for name, w in weights.items():
            pred = fit(images, y, w / w.mean(), train, stats, seed, args.epochs, precision)
            found[name].append(bootstrap(rmse, truth[test], pred[test]))
            print(seed, name, round(found[name][-1]["value"], 4), flush=True)
    difference = paired(*found.values())
    spread = {"what": "5th, 50th, 95th percentile [dex]", "values": np.quantile(sigma, [0.05, 0.5, 0.95])}
    result = {"galaxies": args.n, "epochs": args.epochs, "seeds": args.seeds, "runs": found, "label_sigma": spread,
              "weighted_minus_equal": difference}
    what = "RMSE [dex] against the noise-free truth of held-out galaxies"
    write_results(args.out, result, what, "mock")
    half = difference["hi"] - difference["value"]
    print(f"weighted minus equal: {difference['value']:+.5f} +- {half:.5f} dex over {difference['n']} seeds")


if __name__ == "__main__":
    parser = option_parser(__doc__, out="label_noise.json")
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    main(parser.parse_args())
