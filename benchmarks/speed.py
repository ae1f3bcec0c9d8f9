"""Loading, training and predicting on a CPU, beside what a user would pick instead.

    python benchmarks/speed.py [--part decode loader step fit predict memory] [--repeats 3] [--work runs/speed]
                               [--out results/benchmarks.json] [--core-seconds] [--float32]

Same machine, same run, repeats interleaved, medians and ranges. Results are merged into the JSON and written as a table
(.md) and a figure (.png) beside it. Peers that are not installed (`pip install datasets webdataset`) are named as such.
The CPU should have nothing else to do; where it has, --core-seconds lets one thread work and counts its seconds.
--float32 makes of any x86 one without AVX-512 and bfloat16, for PyTorch and oneDNN. On a GPU: benchmarks/gpu.py.
Accuracy of the two paths: benchmarks/same_accuracy.py.
"""
import importlib.util
import os
import shutil
import sys
import time
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np

if "--float32" in sys.argv: os.environ |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}  # read once
import torch
from fastai.callback.core import Callback
from harness import CORES, fresh_python, interleaved, machine, option_parser, ratio, save_figure, times, write_results
from PIL import Image
from stock import Pictures, Rmse, fast_dls, learner, stock_dls

from galaxy_cnn.figures import PREDICTED, new_figure, panel_titles
from galaxy_cnn.files import read_json
from galaxy_cnn.images import decode
from galaxy_cnn.learner import BF16_FLAGS, RECIPES, EpochSeed, choose_precision
from galaxy_cnn.loaders import CutoutDataset, InMemoryLoader, image_statistics, load_cutouts
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.models import torch_threads
from galaxy_cnn.predict import predict
from galaxy_cnn.run import read_run
from galaxy_cnn.survey import pack
from galaxy_cnn.train import train

N, SEED = 2560, 51
BATCHES = {"xresnet_tiny": 24, "xresnet18": 3}  # of one timed epoch
EPOCHS = {"xresnet_tiny": (1536, 8), "xresnet18": (768, 2)}  # galaxies that train, epochs
ANSWERED = {"xresnet_tiny": 2048, "xresnet18": 512}  # galaxies that are predicted


clock = time.process_time if "--core-seconds" in sys.argv else time.perf_counter


def rate(work, n):
    "n over the seconds that some work takes"
    (seconds,) = times(work, clock=clock)
    return n / seconds


# Decoding

def decode_part(survey, args):
    "JPEG bytes to pixels on one core, and a Survey to a tensor on all"
    files = survey.image_files
    data = [Path(f).read_bytes() for f in files]
    def pillow(source): return np.asarray(Image.open(source).convert("RGB"))
    works = {"Pillow, bytes to array": lambda: [pillow(BytesIO(b)) for b in data],
             "decode, bytes to array": lambda: [decode(b) for b in data],
             "Pillow, file to array": lambda: [pillow(f) for f in files],
             "load_cutouts, one thread": lambda: load_cutouts(survey, workers=1),
             "load_cutouts, two threads (what train does)": lambda: load_cutouts(survey)}
    return interleaved({name: partial(rate, work, len(data)) for name, work in works.items()}, args.repeats)


# Loaders

def plain_loader(survey, rows, stats, workers):
    "PyTorch's DataLoader over `Pictures`"
    files, y = [survey.image_files[i] for i in rows], survey.target("metallicity")[rows].astype("float32")
    options = dict(shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)
    return torch.utils.data.DataLoader(Pictures(files, y, stats=stats), 128, **options)


def center_crop(images, stats):
    "The central 112 px of arrays of 128, normalized"
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in stats)
    pixels = torch.from_numpy(np.ascontiguousarray(images[..., 8:120, 8:120, :])).movedim(-1, -3)
    return (pixels.float() / 255 - mean) / std


def hugging_face_loader(survey, rows, stats, folder):
    "Hugging Face's datasets over the packed file, decoding as it goes"
    import datasets
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_parquet(str(survey.path / "packed.parquet"), cache_dir=str(folder / "hf"))
    table = table.cast_column("image", datasets.Image()).select(rows)
    def batch(rows):
        images = np.stack([np.asarray(i.convert("RGB")) for i in rows["image"]])
        return {"x": center_crop(images, stats), "y": torch.tensor(rows["oh_p50"])}
    return torch.utils.data.DataLoader(table.with_transform(batch), 128, shuffle=True, drop_last=True)


def webdataset_loader(survey, rows, stats, folder):
    "webdataset over a tar of the same JPEGs"
    import webdataset
    file = str(folder / "sky.tar")
    with webdataset.TarWriter(file) as tar:
        for i in rows:
            tar.write({"__key__": str(i), "jpg": Path(survey.image_files[i]).read_bytes(), "cls": int(i)})
    data = webdataset.WebDataset(file, shardshuffle=False).shuffle(1000).decode("rgb8").to_tuple("jpg", "cls")
    data = data.map_tuple(lambda image: center_crop(image, stats), lambda i: i)
    return torch.utils.data.DataLoader(data, 128, drop_last=True)


PEERS = {"datasets": ("Hugging Face datasets", hugging_face_loader), "webdataset": ("webdataset", webdataset_loader)}


def images_in(loader):
    "Images of an epoch"
    return sum(len(b["x"] if isinstance(b, dict) else b[0]) for b in loader)


def second_epoch(loader):
    "Images a second of a loader's second epoch: a function that goes on to the next"
    n = images_in(loader)
    return lambda: rate(lambda: images_in(loader), n)


def loader_part(survey, args):
    "Second epochs; one thread each where nothing else is said, and all worker counts that fit"
    split = np.where(np.arange(len(survey)) < 1536, "train", "valid")
    rows, pixels = np.flatnonzero(split == "train"), load_cutouts(survey)[0]
    stats = image_statistics([survey.image_files[i] for i in rows])
    counts = [w for w in (0, 1, 2, 4, 8) if w <= CORES]
    loaders = {f"fastai DataBlock, {w} workers": stock_dls(survey, split, "xresnet18", workers=w).train for w in counts}
    loaders |= {f"PyTorch DataLoader, {w} workers": plain_loader(survey, rows, stats, w) for w in counts}
    cores = {name: max(1, w) for name, w in zip(loaders, 2 * counts)}
    missing = [package for package in PEERS if importlib.util.find_spec(package) is None]
    for package, (title, make) in PEERS.items():
        if package not in missing: loaders[f"{title} (no augmentation)"] = make(survey, rows, stats, args.work)
    loaders["in memory, centre (xresnet_tiny)"] = fast_dls(survey, split, pixels, "xresnet_tiny").train
    loaders["in memory, shifts and turns (xresnets)"] = fast_dls(survey, split, pixels, "xresnet18").train
    with torch_threads(1):
        found = interleaved({name: second_epoch(loader) for name, loader in loaders.items()}, args.repeats)
    for name, v in found.items():
        v["per_core"] = {k: v["images_per_second"][k] / cores.get(name, 1) for k in ("median", "min", "max")}
    return found | {"not installed": [*missing, "ffcv (its installation stops without the headers of OpenCV)"]}


# One step

class ChannelsFirst(Callback):
    "The memory format that PyTorch has by default"
    def before_fit(self): self.learn.model.to(memory_format=torch.contiguous_format)


class Clock(Callback):
    "Images a second of each epoch's training"
    def before_fit(self): self.rates = []
    def before_train(self): self.start = clock()

    def after_train(self):
        n = len(self.dls.train) * self.dls.train.bs
        self.rates.append(n / (clock() - self.start))


def step_dls(arch, survey, pixels):
    "As many batches as are timed, and two galaxies to validate"
    recipe = RECIPES[arch]
    dls = fast_dls(survey, np.where(np.arange(len(survey)) % 2, "train", "valid"), pixels, arch)
    options = dict(bs=recipe.bs, device=torch.device("cpu"))
    y = torch.tensor(survey.target("metallicity")).float()
    rows = torch.arange(BATCHES[arch] * recipe.bs) % len(survey)
    timed, valid = (CutoutDataset(pixels, y, r) for r in (rows, torch.arange(2)))
    dls.loaders = [
        InMemoryLoader(timed, dls.stats, augment=recipe.augment, shuffle=True, drop_last=True, **options),
        InMemoryLoader(valid, dls.stats, **options)]
    return dls


def step_rate(arch, survey, pixels, precision, changes=(), fastai=False, compiled=False):
    "Images a second in the fastest of the epochs after the first; `changes` are classes of callbacks"
    paces, dls = Clock(), step_dls(arch, survey, pixels)
    callbacks = [paces, *(change() for change in changes)]
    learn = learner(dls, survey, np.full(len(survey), "train"), arch, precision, fastai, callbacks)
    if compiled: learn.model.compile()
    learn.fit_one_cycle(4, RECIPES[arch].lr)
    return max(paces.rates[1:])


STEPS = {  # name: precision, and what else is changed
    "float32, fastai's optimiser": ("fp32", dict(fastai=True)),
    "float32": ("fp32", dict(changes=[ChannelsFirst])),
    "float32, channels last": ("fp32", {}),
    "bfloat16, channels first": ("bf16", dict(changes=[ChannelsFirst])),
    "bfloat16, fastai's optimiser": ("bf16", dict(fastai=True)),
    "bfloat16 (what train does)": ("bf16", {}),
    "bfloat16, compiled": ("bf16", dict(compiled=True)),
}


def step_part(survey, args):
    "Forward, backward and optimizer, with the batch's making, on all cores"
    pixels, found = load_cutouts(survey)[0], {}
    has_bf16 = choose_precision("auto", "cpu") == "bf16"
    shown = {name: how for name, how in STEPS.items() if has_bf16 or name.startswith("float32")}
    for arch in args.archs:
        works = {f"{arch}, {name}": partial(step_rate, arch, survey, pixels, precision, **options)
                 for name, (precision, options) in shown.items()}
        found |= interleaved(works, args.repeats)
    return found


# A whole training

def fit_once(survey, arch, fast, args, seeds):
    "Seconds from files to a trained network, and its RMSE on the mock galaxies held out; the next seed each time"
    (n, epochs), rows = EPOCHS[arch], np.arange(len(survey))
    epochs = args.epochs or epochs
    split = np.select([rows < n, rows < n + 512], ["train", "valid"], "")
    rmse, seed, start = Rmse(), next(seeds), clock()
    dls = fast_dls(survey, split, load_cutouts(survey)[0], arch) if fast else stock_dls(survey, split, arch)
    precision = choose_precision("auto", "cpu") if fast else "fp32"
    learn = learner(dls, survey, split, arch, precision, not fast, [EpochSeed(seed), rmse], seed)
    learn.fit_one_cycle(epochs, RECIPES[arch].lr)
    seconds = clock() - start
    return {"seconds": seconds, "rmse_mock": rmse.value, "images_per_second": n * epochs / seconds}


def fit_part(survey, args):
    "Whole trainings on all cores"
    paths = {"stock": False, "fast path": True}
    works = {f"{arch}, {name}": partial(fit_once, survey, arch, fast, args, count())
             for arch in args.archs for name, fast in paths.items()}
    return interleaved(works, args.repeats)


# Prediction

def stock_predictions(run, survey, split, workers):
    "`learn.get_preds` over the stock loader, one view of each galaxy"
    dls = stock_dls(survey, split, run.card["arch"], workers=workers)
    learn = learner(dls, survey, split, run.card["arch"])
    learn.model.load_state_dict(run.networks[0].state_dict())
    n = int((split == "valid").sum())
    return lambda: rate(lambda: learn.get_preds(dl=dls.valid), n)


def predict_part(survey, args):
    "Galaxies a second from files (and the packed file) to a table: the network alone, and with error bars and flag"
    rows, works, table = np.arange(len(survey)), {}, args.work / "table.parquet"
    some = survey.select(rows < 512)
    names = [f"{Path(f).resolve()}\n" for f in survey.image_files[512:]]
    def ours(run, n, **options):
        listed = args.work / f"list{n}.txt"
        listed.write_text("".join(names[:n]))
        return partial(rate, lambda: predict(run, listed, table, **options), n)
    for arch, epochs in (("xresnet_tiny", 2), ("xresnet18", 1)):
        if arch not in args.archs: continue
        n, options = ANSWERED[arch], dict(arch=arch, epochs=epochs, init=None)
        alone = small_run(some, args.work / f"run-{arch}-alone", calibrate=False, **options)
        run = small_run(some, args.work / f"run-{arch}", **options)
        split = np.select([rows < 512, rows < 512 + n], ["train", "valid"], "")
        for w in [w for w in (0, 2, 4) if w <= CORES and not (w and args.core_seconds)]:
            works[f"{arch}, learn.get_preds, {w} workers"] = stock_predictions(run, survey, split, w)
        works[f"{arch}, predict, one view"] = ours(alone, n, tta=False)
        works[f"{arch}, predict, one view, error bars and flag"] = ours(run, n, tta=False, accept_shift=True)
        works[f"{arch}, predict, eight views"] = ours(alone, n // 4)
    if len(args.archs) < len(EPOCHS): return interleaved(works, args.repeats)
    few = small_run(survey.select(rows < 400), args.work / "run-few")
    works["few labels (5 networks, eight views, Gaussian process, flag), predict"] = ours(few, 512)
    return interleaved(works, args.repeats)


def small_run(survey, out, **options):
    "A Run, trained where it is not there yet"
    return read_run(out) if (out / "model.json").is_file() else train(survey, out, quiet=True, **options)


# Memory

def memory_part(survey, args):
    "Peak memory [MB] of a process that predicts, for a list and for one ten times as long, and of one that trains"
    some, files = survey.select(np.arange(len(survey)) < 512), [str(Path(f).resolve()) for f in survey.image_files]
    run = small_run(some, args.work / "run-xresnet_tiny", arch="xresnet_tiny", epochs=2, init=None)
    found, table = {}, args.work / "memory.parquet"
    for n in (2000, 20_000):
        listed = args.work / f"list{n}.txt"
        listed.write_text("".join(f"{files[i % len(files)]}\n" for i in range(n)))
        found[f"predict, {n} cutouts"] = {"peak_MB": peak("predict", run.path, listed, "--no-tta", "--out", table)}
    out = args.work / "run-memory"
    shutil.rmtree(out, ignore_errors=True)
    trained = peak("train", survey.path, "--out", out, "--epochs", 1, "--init", "none")
    pixels = f"{3 * 128**2 * len(survey) / 1e6:.0f} MB of pixels"
    return found | {f"train, {len(survey)} cutouts of 128 px ({pixels})": {"peak_MB": trained}}


def peak(*arguments):
    "Peak resident memory [MB] of a command of `galaxy-cnn`"
    code = ("import sys; from harness import peak_memory; from galaxy_cnn.cli import app; "
            "app(sys.argv[1:], standalone_mode=False); print(peak_memory())")
    return int(fresh_python("-c", code, *arguments).split()[-1]) / 2**20


# Table and figure

COMPARED = {  # ratio, of each architecture: part of the results, our row, rows of which the best is the other
    "step, {}": ("step", "{}, bfloat16 (what train does)", "{}, float32, fastai's optimiser"),
    "whole training, {}": ("fit", "{}, fast path", "{}, stock"),
    "predict, one view, over learn.get_preds, {}": ("predict", "{}, predict, one view", "{}, learn.get_preds"),
}


def ratios(parts):
    "What the README quotes, each against the best that a user would have without this package"
    def best(part, word, key="images_per_second"):
        return max((v[key] for name, v in parts[part].items() if word in name), key=lambda v: v["median"])
    found = {}
    for name in (n for n in parts.get("loader", {}) if n.startswith("in memory")):
        ours, theirs = parts["loader"][name]["per_core"], best("loader", "fastai", "per_core")
        found[f"loader {name}: images/s a core over fastai's DataBlock"] = ratio(ours, theirs)
    for arch in EPOCHS:
        for title, (part, ours, theirs) in COMPARED.items():
            ours, theirs = ours.format(arch), theirs.format(arch)
            if ours not in parts.get(part, {}): continue
            found[title.format(arch)] = ratio(parts[part][ours]["images_per_second"], best(part, theirs))
    return found


def table_of(results):
    "The results as Markdown"
    about, ranges = results["machine"], results.get("ratio_ranges", {})
    def gain(name, value):
        ends = " ({:.1f}, {:.1f})".format(*ranges[name]) if name in ranges else ""
        return f"| {name} | {value:.1f}x{ends} |"
    seconds, instructions = results.get("seconds", "on all cores"), results.get("instructions", "all there is")
    how = f"seconds {seconds}, instructions: {instructions}"
    lines = ["# Speed on a CPU", "", f"`python benchmarks/speed.py` on {about['cpu']}, {about['cores']} cores, torch "
             f"{about['versions']['torch']}; {how}; mock cutouts of 128 px. "
             "Median of interleaved repeats, range in brackets.",
             "", "| ratio | |", "|---|---|", *(gain(name, value) for name, value in results["ratios"].items()),
             *(f"\n{remark}" for remark in results["remarks"])]
    for part, rows in results["parts"].items(): lines += part_lines(part, rows)
    return "\n".join(lines) + "\n"


def part_lines(part, rows):
    "A part of the results as Markdown"
    numbers = {name: v for name, v in rows.items() if isinstance(v, dict)}
    keys = list(dict.fromkeys(k for v in numbers.values() for k in v))
    head = " | ".join(k.replace("_", " ") for k in keys)
    lines = ["", f"## {part}", "", f"| | {head} |", "|---|" + "---|" * len(keys)]
    lines += [f"| {name} | {' | '.join(cell(v.get(k)) for k in keys)} |" for name, v in numbers.items()]
    return lines + [f"\n{name}: {', '.join(v)}" for name, v in rows.items() if isinstance(v, list)]


def cell(v):
    "A number with its range"
    if v is None: return ""
    if not isinstance(v, dict): return f"{v:.0f}"
    digits = 0
    if v["median"] < 100: digits = 1
    if v["median"] < 1: digits = 4
    return f"{v['median']:.{digits}f} ({v['min']:.{digits}f}, {v['max']:.{digits}f})"


DRAWN = {"loader": "loading", "fit": "whole training", "predict": "prediction"}
STYLES = {True: {"marker": "o", "color": PREDICTED}, False: {"marker": "s", "mfc": "white", "color": "0.3"}}
OURS = ("in memory", "fast path", "predict,", "), predict")  # in the names of this package's rows


def figure(results):
    "Rates of loaders, whole trainings and prediction, ours red and filled"
    rows = {part: {name: v for name, v in results["parts"][part].items() if isinstance(v, dict)}
            for part in DRAWN if part in results["parts"]}
    heights = [len(r) + 1 for r in rows.values()]
    fig = new_figure(9, 0.24 * (sum(heights) - len(rows)) + 1.2 * len(rows))
    axes = np.atleast_1d(fig.subplots(len(rows), 1, height_ratios=heights))
    for ax, (part, found) in zip(axes, rows.items()): plot_part(ax, part, found, results["machine"]["cores"])
    return fig


def plot_part(ax, part, rows, cores):
    "Rates of the rows of a part"
    key, label = "images_per_second", f"images/s, {cores} cores"
    if part == "loader": key, label = "per_core", "images/s a core, second epoch"
    rates = {name: rows[name][key]["median"] for name in list(rows)[::-1]}
    plot_rates(ax, rates, label)
    panel_titles(ax, "mock sky", DRAWN[part])


def plot_rates(ax, rates, label):
    "Rates by name, from below"
    for i, (name, v) in enumerate(rates.items()):
        own = any(word in name for word in OURS) and "get_preds" not in name
        ax.plot(v, i, ms=5, **STYLES[own])
        ax.annotate(f"{v:,.0f}", (v, i), (7, 0), textcoords="offset points", va="center", fontsize=8)
    ax.set(xscale="log", xlim=(min(rates.values()) / 2, max(rates.values()) * 3), xlabel=label)
    ax.set(yticks=range(len(rates)), yticklabels=list(rates), ylim=(-0.6, len(rates) - 0.4))
    ax.tick_params(labelsize=8)


PARTS = {"decode": decode_part, "loader": loader_part, "step": step_part, "fit": fit_part,
         "predict": predict_part, "memory": memory_part}


def main(args):
    torch.set_num_threads(1 if args.core_seconds else CORES)
    if args.float32: BF16_FLAGS.clear()
    survey = make_mock(args.work / f"sky-{N}", n=N, seed=SEED)
    pack(survey.path)
    results = read_json(args.out) if args.out.is_file() else {"parts": {}}
    for part in args.part:
        results["parts"][part] = results["parts"].get(part, {}) | PARTS[part](survey, args)
        found = ratios(results["parts"])
        seconds = "of a core" if args.core_seconds else "on all cores"
        instructions = "AVX2" if args.float32 else "all there is"
        results = {"machine": machine(), "seconds": seconds, "instructions": instructions,
                   "ratios": {k: v["value"] for k, v in found.items()},
                   "ratio_ranges": {k: (v["lo"], v["hi"]) for k, v in found.items()},
                   "remarks": results.get("remarks", []), "parts": results["parts"]}
        what = "images a second on a CPU, beside what a user would pick instead"
        write_results(args.out, results, what, "mock")
    args.out.with_suffix(".md").write_text(table_of(results))
    if set(results["parts"]) & set(DRAWN): save_figure(args.out.with_suffix(".png"), figure(results))
    print(table_of(results))


if __name__ == "__main__":
    parser = option_parser(__doc__, out="benchmarks.json", work="runs/speed")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--archs", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    parser.add_argument("--epochs", type=int, help="of a whole training; default: 8 for xresnet_tiny, 2 for xresnet18")
    parser.add_argument("--core-seconds", action="store_true", help="one thread, and the seconds that it works")
    parser.add_argument("--float32", action="store_true", help="as a processor with AVX2 and no more")
    main(parser.parse_args())
