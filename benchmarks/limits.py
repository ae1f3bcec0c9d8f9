"""What of a training step and of a prediction in float32 are convolutions, which every path must do, and at what pace

    python benchmarks/limits.py [--all-instructions] [--out results/limits.json]

One thread, least seconds of a core of several repeats: of a whole step of xresnet_tiny, and of its convolutions alone,
forward and backward, each with the input that it has there; of the network as `predict` has it, and of its own.
As a processor with AVX2 and no more, for PyTorch and oneDNN, unless --all-instructions is given.
"""
import os
import sys
import time
from functools import partial

if "--all-instructions" not in sys.argv: os.environ |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
import torch
from harness import machine, option_parser, times, write_results
from speed import EPOCHS, plot_rates

from galaxy_cnn.figures import new_figure, panel_titles
from galaxy_cnn.learner import RECIPES
from galaxy_cnn.models import FaithfulLoss, create_model, fold_batch_norm, torch_threads

ARCH, REPEATS = "xresnet_tiny", 15


def least(work): return min(times(work, REPEATS, 3, time.process_time))


def forth_and_back(layer, x, out): layer(x).backward(out)


def convolutions(model, step):
    "Each convolution, its input and its output in a step"
    seen, layers = [], [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    def keep(layer, x, out): seen.append((layer, x[0].detach(), out.detach()))
    hooks = [m.register_forward_hook(keep) for m in layers]
    step()
    for hook in hooks: hook.remove()
    return seen


def measure():
    "Seconds of a step and of its convolutions, and the pace of these"
    model, bs = create_model(ARCH, sigma=True).to(memory_format=torch.channels_last), RECIPES[ARCH].bs
    opt, loss_func, y = torch.optim.AdamW(model.parameters(), foreach=True), FaithfulLoss(), torch.randn(bs)
    def step():
        loss_func(model(torch.randn(bs, 3, 112, 112)), y).backward()
        opt.step()
        opt.zero_grad()
    seconds = operations = 0
    for i, (layer, x, out) in enumerate(convolutions(model, step)):
        x.requires_grad_(i > 0)  # the pictures need no gradient
        seconds += least(partial(forth_and_back, layer, x, out))
        products = out.numel() * layer.weight[0].numel()
        operations += 2 * products * (2 + (i > 0))
    whole = least(step)
    return {"step": {"value": whole, "unit": "s"}, "convolutions": {"value": seconds, "unit": "s"},
            "share": {"value": seconds / whole}, "pace": {"value": operations / seconds / 1e9, "unit": "GFLOP/s"}}


def predicted(images=64):
    "Seconds of a picture in the network that predicts, and in its convolutions"
    model, x = fold_batch_norm(create_model(ARCH, sigma=True).eval()), torch.randn(images, 3, 112, 112)
    with torch.inference_mode():
        layers = convolutions(model, lambda: model(x))
        seconds = sum(least(partial(layer, seen)) for layer, seen, _ in layers)
        whole = least(partial(model, x))
    return {"network": {"value": whole / images, "unit": "s"}, "convolutions": {"value": seconds / images, "unit": "s"},
            "share": {"value": seconds / whole}}


def core_figure(with_bf16, without):
    "Images a second of a core in whole trainings and prediction, with bfloat16 and without, ours red and filled"
    fig = new_figure(9, 2.6)
    for ax, (results, title) in zip(fig.subplots(1, 2), ((with_bf16, "with bfloat16"), (without, "AVX2, float32"))):
        rows = results["parts"].get("fit", {}) | results["parts"].get("predict", {})
        names = [f"{arch}, {word}" for word in ("fast path", "stock", "predict, one view", "learn.get_preds, 0 workers")
                 for arch in EPOCHS if f"{arch}, {word}" in rows]
        plot_rates(ax, {name: rows[name]["images_per_second"]["median"] for name in names[::-1]}, "images/s of a core")
        panel_titles(ax, "mock sky", title)
    return fig


def main(args):
    with torch_threads(1): found = {"training": measure(), "prediction": predicted()}
    instructions = "all there is" if args.all_instructions else "AVX2"
    results = {"machine": machine(), "arch": ARCH, "instructions": instructions, **found}
    what = "least seconds of a core in float32: a training step of a batch, a picture that is predicted"
    write_results(args.out, results, what, "random pixels")
    print(found)


if __name__ == "__main__":
    parser = option_parser(__doc__, out="limits.json")
    parser.add_argument("--all-instructions", action="store_true", help="as the processor is")
    main(parser.parse_args())
