"""Does the ONNX file of every architecture answer as the network does?

    python benchmarks/onnx_parity.py [--archs xresnet_tiny ...] [--out results/onnx_parity.json]

Each network is exported and compared in a process of one thread, where the package's Mish takes its shortcut, and at
batches of other sizes than the example of the export. The shipped network has its weights; the others random ones,
their heads too. Largest absolute difference of the prediction [dex or the target's unit] over 32 mock galaxies.
"""
import json
import tempfile
from pathlib import Path

from harness import fresh_python, machine, option_parser, write_results

ARCHS = ("xresnet_tiny", "xresnet9", "xresnet18", "xresnet34", "xresnet50")
BATCHES, N, SEED = (1, 5, 26), 32, 71  # the example has 2


def random_run(arch, folder):
    "A Run with random weights, whose head is random too; without error bars, which a training fits"
    import torch
    from safetensors.torch import save_file
    from torch import nn

    from galaxy_cnn.models import create_model, head_layer
    from galaxy_cnn.run import RUN_FORMAT, Run
    torch.manual_seed(SEED)
    model = create_model(arch, 1, False, [8.9], [0.2], sigma=True)
    nn.init.normal_(head_layer(model).mean.weight, std=0.1)
    (folder / "models").mkdir(parents=True)
    save_file(model.state_dict(), folder / "models/0.safetensors")
    network = {"file": "models/0.safetensors", "image_mean": [0.1] * 3, "image_std": [0.1] * 3}
    card = {
        "format": RUN_FORMAT,
        "arch": arch,
        "self_attention": False,
        "size": 112,
        "targets": ["metallicity"],
        "networks": [network],
        "gp": None,
        "precision": "fp32",
        "split": {"folds": None},
        "survey": {"path": str(folder / "none")},
    }
    return Run(folder, card)


def parity(arch, images_file, folder):
    "Print what a process of one thread finds: largest difference, size of the file, spread of the answers"
    import numpy as np
    import pandas as pd
    import torch

    from galaxy_cnn.export import Predictor, _write_onnx, onnx_table
    from galaxy_cnn.run import PRETRAINED, Run, read_run
    torch.set_num_threads(1)
    images, file = np.load(images_file), Path(folder) / f"{arch}.onnx"
    run = read_run(PRETRAINED) if arch == "shipped" else random_run(arch, Path(folder) / arch)
    run = Run(run.path, {**run.card, "precision": "fp32"})
    expected = run.predict(images).to_table(run.targets, None)
    _write_onnx(Predictor(run).eval(), images.shape[1], file)
    ends = np.cumsum(BATCHES)
    parts = [onnx_table(file, images[end - n:end]) for n, end in zip(BATCHES, ends)]
    found = pd.concat(parts, ignore_index=True)
    difference = (found - expected[found.columns]).abs()
    spread = expected[found.columns].std()
    print(
        json.dumps(
            {
                "max_difference": float(difference.max().max()),
                "in_units_of_their_spread": float((difference.max() / spread).max()),
                "outputs": len(found.columns),
                "n": len(found),
                "threads": torch.get_num_threads(),
                "megabytes": file.stat().st_size / 1e6,
            }
        )
    )


def main(args):
    import numpy as np

    from galaxy_cnn.images import read_images
    from galaxy_cnn.mock_images import make_mock
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        survey = make_mock(Path(folder) / "sky", n=N, seed=SEED, workers=1)
        np.save(Path(folder) / "images.npy", read_images(survey.image_files))
        for arch in ("shipped", *args.archs):
            call = f"from onnx_parity import parity; parity({arch!r}, {folder + '/images.npy'!r}, {folder!r})"
            found[arch] = json.loads(fresh_python("-c", call).splitlines()[-1])
            print(arch, found[arch])
    results = {"machine": machine(), "batches": BATCHES, "example_batch": 2, "networks": found}
    write_results(args.out, results, "difference between ONNX files and the networks that they were made of", "mock", N)


if __name__ == "__main__":
    parser = option_parser(__doc__, out="onnx_parity.json")
    parser.add_argument("--archs", nargs="+", choices=ARCHS, default=list(ARCHS))
    main(parser.parse_args())
