"""Does it help to let uncertain labels count less? Small networks on a mock sky, where the truth is known, with and without the catalog's own errors in the loss.

    python benchmarks/label_noise.py [--n 3000] [--seeds 0 1 2 3 4] [--out results/label_noise.json]

Weighted: each squared residual counts 1 / (scatter^2 + sigma^2), sigma = (oh_p84 - oh_p16) / 2, scatter = 0.08 dex (what an unlimited number of labels leaves on this sky). Scored against the
noise-free truth of held-out galaxies, paired over seeds (split, initial weights and order of batches are the same for both).
"""
import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from fastai.data.core import DataLoaders
from torch import nn

from galaxy_cnn.files import write_json
from galaxy_cnn.images import read_images
from galaxy_cnn.learner import RECIPES, EpochSeed, choose_precision, make_learner, seed_all
from galaxy_cnn.loaders import CutoutDataset, InMemoryLoader, image_statistics
from galaxy_cnn.metrics import bootstrap, rmse
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.models import create_model, forward, network_input
from galaxy_cnn.run import map_slices
from galaxy_cnn.splits import assign_split

SCATTER = 0.08  # dex


class Weighted(nn.Module):
    "Root of the weighted mean square residual; targets are [B, 2]: label, weight"
    def forward(self, pred, y): return (((pred[:, 0] - y[:, 0]) ** 2 * y[:, 1]).sum() / y[:, 1].sum()).clamp_min(1e-12).sqrt()


def fit(images, y, weight, rows, stats, seed, epochs, precision):
    "Truths predicted for all images by a network trained on `rows`"
    recipe = RECIPES["xresnet_tiny"]
    seed_all(seed, 0, -1)
    data = CutoutDataset(torch.from_numpy(images).movedim(3, 1).contiguous(), torch.tensor(np.stack([y, weight], 1), dtype=torch.float32), torch.as_tensor(rows))
    train, valid = (InMemoryLoader(data, stats, bs=recipe.bs, shuffle=s, drop_last=s, device=torch.device("cpu")) for s in (True, False))
    model = create_model("xresnet_tiny", 1, mean=[y[rows].mean()], std=[y[rows].std()])
    learn = make_learner(DataLoaders(train, valid, device="cpu"), model, recipe, precision, [EpochSeed(seed)])
    learn.loss_func = Weighted()
    learn.fit_one_cycle(epochs, recipe.lr)
    return np.concatenate(map_slices(lambda part: forward(model.eval(), network_input(images[part], 112, stats), precision=precision)[:, 0].double().numpy(), len(images), 8))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("results/label_noise.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        survey = make_mock(Path(folder) / "sky", n=args.n, seed=21)
        images = read_images(survey.image_files, 112)
        stats = image_statistics(survey.image_files)
    y, truth, sigma = survey.target("metallicity"), survey.truth("metallicity"), (survey.target("oh_p84") - survey.target("oh_p16")) / 2
    weights, precision, found = {"equal": np.ones(len(y)), "by label error": 1 / (SCATTER**2 + sigma**2)}, choose_precision("auto", "cpu"), {}
    for seed in args.seeds:
        split = assign_split(survey.catalog, seed)
        test = split == "test"
        for name, w in weights.items():
            pred = fit(images, y, w / w.mean(), np.flatnonzero(split == "train"), stats, seed, args.epochs, precision)
            found.setdefault(name, []).append(bootstrap(rmse, truth[test], pred[test]))
            print(seed, name, round(found[name][-1]["value"], 4), flush=True)
    difference = np.array([b["value"] - a["value"] for a, b in zip(found["equal"], found["by label error"])])
    half = 2.776 * difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) == 5 else float("nan")  # Student's t, 4 degrees of freedom
    write_json(args.out, {"what": "RMSE [dex] against the noise-free truth of held-out galaxies", "sky": "mock", "galaxies": args.n, "epochs": args.epochs, "seeds": args.seeds, "runs": found,
                          "label_sigma": {"what": "5th, 50th, 95th percentile [dex]", "values": np.quantile(sigma, [0.05, 0.5, 0.95])},
                          "weighted_minus_equal": {"value": difference.mean(), "lo": difference.mean() - half, "hi": difference.mean() + half, "n": len(difference)}})
    print(f"weighted minus equal: {difference.mean():+.5f} +- {half:.5f} dex over {len(difference)} seeds")


if __name__ == "__main__": main()
