"""Loading, training and predicting beside what a user would pick instead, on a CPU: same machine, same run, repeats interleaved, medians and ranges.

    python benchmarks/speed.py [--part decode loader step fit predict memory] [--repeats 3] [--work runs/speed] [--out results/benchmarks.json]

Results are merged into the JSON and written as a table (.md) and a figure (.png) beside it. Peers that are not installed (`pip install datasets webdataset`) are named as such.
The CPU should have nothing else to do. On a GPU: benchmarks/gpu.py. Accuracy of the two paths: benchmarks/same_accuracy.py.
"""
import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from stock import Rmse, fast_dls, learner, stock_dls

from galaxy_cnn.figures import new_figure
from galaxy_cnn.files import read_json, versions, write_json
from galaxy_cnn.images import decode
from galaxy_cnn.learner import RECIPES, Bfloat16, EpochSeed, choose_precision, cpu_flags
from galaxy_cnn.loaders import CutoutDataset, InMemoryLoader, image_statistics, load_cutouts
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.models import torch_threads
from galaxy_cnn.predict import predict
from galaxy_cnn.run import read_run
from galaxy_cnn.survey import pack
from galaxy_cnn.train import train

N, SEED, CORES = 2560, 51, len(os.sched_getaffinity(0))
BATCHES = {"xresnet_tiny": 24, "xresnet18": 3}  # of one timed epoch
EPOCHS = {"xresnet_tiny": (1536, 8), "xresnet18": (768, 2)}  # galaxies that train, epochs


def summary(values): return {"median": float(np.median(values)), "min": float(np.min(values)), "max": float(np.max(values)), "repeats": len(values)}


def interleaved(contenders, repeats):
    "Call each contender in turn, `repeats` times; each returns a rate or a dict of numbers"
    found = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items(): found[name].append(work())
    flat = {name: v if isinstance(v[0], dict) else [{"images_per_second": x} for x in v] for name, v in found.items()}
    return {name: {key: summary([x[key] for x in v]) for key in v[0]} for name, v in flat.items()}


def rate(work, n):
    "n over the seconds that some work takes"
    start = time.perf_counter()
    work()
    return n / (time.perf_counter() - start)


# Decoding

def decode_part(survey, args):
    "JPEG bytes to pixels on one core, and a Survey to a tensor on all"
    data = [Path(f).read_bytes() for f in survey.image_files]
    one = {"Pillow, bytes to array": lambda: rate(lambda: [np.asarray(Image.open(BytesIO(b)).convert("RGB")) for b in data], len(data)),
           "decode, bytes to array": lambda: rate(lambda: [decode(b) for b in data], len(data)),
           "Pillow, file to array": lambda: rate(lambda: [np.asarray(Image.open(f).convert("RGB")) for f in survey.image_files], len(data)),
           "load_cutouts, one thread": lambda: rate(lambda: load_cutouts(survey, workers=1), len(data)),
           "load_cutouts, two threads (what train does)": lambda: rate(lambda: load_cutouts(survey), len(data))}
    return interleaved(one, args.repeats)


# Loaders

class Pictures(torch.utils.data.Dataset):
    "The loop that people write: Pillow, a random crop, flips and quarter turns"
    def __init__(self, files, y, stats): self.files, self.y, (self.mean, self.std) = files, y, (torch.tensor(s).view(3, 1, 1) for s in stats)
    def __len__(self): return len(self.files)

    def __getitem__(self, i):
        image = torch.nn.functional.pad(torch.from_numpy(np.array(Image.open(self.files[i]).convert("RGB"))).movedim(2, 0), (8, 8, 8, 8))
        top, left, turns, flip = (int(torch.randint(n, ())) for n in (33, 33, 4, 2))
        image = torch.rot90(image[:, top:top + 112, left:left + 112], turns, (1, 2))
        return ((image.flip(2) if flip else image).float() / 255 - self.mean) / self.std, self.y[i]


def plain_loader(survey, rows, stats, workers):
    "PyTorch's DataLoader over `Pictures`"
    data = Pictures([survey.image_files[i] for i in rows], survey.target("metallicity")[rows].astype("float32"), stats)
    return torch.utils.data.DataLoader(data, 128, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)


def hugging_face_loader(survey, rows, stats, folder):
    "Hugging Face's datasets over the packed file, decoding as it goes"
    import datasets
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_parquet(str(survey.path / "packed.parquet"), cache_dir=str(folder / "hf")).cast_column("image", datasets.Image()).select(rows)
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in stats)
    def batch(rows):
        images = torch.from_numpy(np.stack([np.asarray(i.convert("RGB"))[8:120, 8:120] for i in rows["image"]])).movedim(3, 1)
        return {"x": (images.float() / 255 - mean) / std, "y": torch.tensor(rows["oh_p50"])}
    return torch.utils.data.DataLoader(table.with_transform(batch), 128, shuffle=True, drop_last=True)


def webdataset_loader(survey, rows, stats, folder):
    "webdataset over a tar of the same JPEGs"
    import webdataset
    with webdataset.TarWriter(str(folder / "sky.tar")) as tar:
        for i in rows: tar.write({"__key__": str(i), "jpg": Path(survey.image_files[i]).read_bytes(), "cls": int(i)})
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in stats)
    def pixels(image): return (torch.from_numpy(np.ascontiguousarray(image[8:120, 8:120])).movedim(2, 0).float() / 255 - mean) / std
    data = webdataset.WebDataset(str(folder / "sky.tar"), shardshuffle=False).shuffle(1000).decode("rgb8").to_tuple("jpg", "cls").map_tuple(pixels, lambda i: i)
    return torch.utils.data.DataLoader(data, 128, drop_last=True)


def second_epoch(loader):
    "Images a second of a loader's second epoch, a function that goes on to the next"
    sum(len(x) for x, _ in pairs(loader))
    def epoch():
        start = time.perf_counter()
        n = sum(len(x) for x, _ in pairs(loader))
        return n / (time.perf_counter() - start)
    return epoch


def pairs(loader):
    for b in loader: yield (b["x"], b["y"]) if isinstance(b, dict) else b


def loader_part(survey, args):
    "Second epochs; one thread each where nothing else is said, and all worker counts that fit"
    split = np.where(np.arange(len(survey)) < 1536, "train", "valid")
    rows, pixels = np.flatnonzero(split == "train"), load_cutouts(survey)[0]
    stats = image_statistics([survey.image_files[i] for i in rows])
    counts = [w for w in (0, 1, 2, 4, 8) if w <= CORES]
    contenders = {f"fastai DataBlock, {w} workers": lambda w=w: second_epoch(stock_dls(survey, split, "xresnet18", workers=w).train) for w in counts}
    contenders |= {f"PyTorch DataLoader, {w} workers": lambda w=w: second_epoch(plain_loader(survey, rows, stats, w)) for w in counts}
    missing = [name for name in ("datasets", "webdataset") if importlib.util.find_spec(name) is None]
    if "datasets" not in missing: contenders["Hugging Face datasets (no augmentation)"] = lambda: second_epoch(hugging_face_loader(survey, rows, stats, args.work))
    if "webdataset" not in missing: contenders["webdataset (no augmentation)"] = lambda: second_epoch(webdataset_loader(survey, rows, stats, args.work))
    contenders["in memory, centre (xresnet_tiny)"] = lambda: second_epoch(fast_dls(survey, split, pixels, "xresnet_tiny").train)
    contenders["in memory, shifts and turns (xresnets)"] = lambda: second_epoch(fast_dls(survey, split, pixels, "xresnet18").train)
    with torch_threads(1): found = interleaved({name: make() for name, make in contenders.items()}, args.repeats)
    for name, v in found.items():
        used = max(1, int(name.split(", ")[1].split()[0]) if "workers" in name else 1)
        v["per_core"] = {k: v["images_per_second"][k] / used for k in ("median", "min", "max")}
    return found | {"not installed": missing + ["ffcv (its installation stops without the headers of OpenCV)"]}


# One step

class Layout(Bfloat16):
    "bfloat16 in the memory format that PyTorch has by default"
    def before_fit(self):
        super().before_fit()
        self.model.to(memory_format=torch.contiguous_format)

    def before_batch(self): pass


class ChannelsLast(Callback):
    "float32 with channels last"
    def before_fit(self): self.learn.model.to(memory_format=torch.channels_last)
    def before_batch(self): self.learn.xb = tuple(x.contiguous(memory_format=torch.channels_last) for x in self.xb)


class Clock(Callback):
    "Images a second of each epoch's training"
    def before_fit(self): self.rates = []
    def before_train(self): self.start = time.perf_counter()
    def after_train(self): self.rates.append(len(self.dls.train) * self.dls.train.bs / (time.perf_counter() - self.start))


def step_rate(arch, survey, pixels, precision, cbs=(), fastai=False, compiled=False):
    "Images a second in the fastest of the epochs after the first"
    n, clock = BATCHES[arch] * RECIPES[arch].bs, Clock()
    y, options = torch.tensor(survey.target("metallicity")).float(), dict(bs=RECIPES[arch].bs, device=torch.device("cpu"))
    rows, valid = torch.arange(n) % len(survey), torch.arange(2)
    dls = fast_dls(survey, np.where(np.arange(len(survey)) % 2, "train", "valid"), pixels, arch)
    dls.loaders = [InMemoryLoader(CutoutDataset(pixels, y, r), dls.stats, augment=RECIPES[arch].augment and k == 0, shuffle=k == 0, drop_last=k == 0, **options) for k, r in enumerate((rows, valid))]
    learn = learner(dls, survey, np.full(len(survey), "train"), arch, precision, fastai, [clock, *cbs])
    if compiled: learn.model.compile()
    learn.fit_one_cycle(4, RECIPES[arch].lr)
    return max(clock.rates[1:])


def step_part(survey, args):
    "Forward, backward and optimiser, with the batch's making, on all cores"
    pixels, found = load_cutouts(survey)[0], {}
    for arch in BATCHES:
        take = lambda *a, **k: lambda: step_rate(arch, survey, pixels, *a, **k)
        contenders = {"float32, fastai's optimiser": take("fp32", fastai=True), "float32": take("fp32"), "float32, channels last": take("fp32", [ChannelsLast()])}
        if choose_precision("auto", "cpu") == "bf16":
            contenders |= {"bfloat16, channels first": take("fp32", [Layout()]), "bfloat16, fastai's optimiser": take("bf16", fastai=True), "bfloat16 (what train does)": take("bf16"),
                           "bfloat16, compiled": take("bf16", compiled=True)}
        found |= {f"{arch}, {name}": v for name, v in interleaved(contenders, args.repeats).items()}
    return found


# A whole training

def fit_once(survey, arch, fast):
    "Seconds from files to a trained network, and its RMSE on the mock galaxies held out"
    n, epochs = EPOCHS[arch]
    split, rmse, start = np.where(np.arange(len(survey)) < n, "train", np.where(np.arange(len(survey)) < n + 512, "valid", "")), Rmse(), time.perf_counter()
    dls = fast_dls(survey, split, load_cutouts(survey)[0], arch) if fast else stock_dls(survey, split, arch)
    learner(dls, survey, split, arch, choose_precision("auto", "cpu") if fast else "fp32", not fast, [EpochSeed(0), rmse]).fit_one_cycle(epochs, RECIPES[arch].lr)
    return {"seconds": time.perf_counter() - start, "rmse_mock": rmse.value, "images_per_second": n * epochs / (time.perf_counter() - start)}


def fit_part(survey, args):
    "Whole trainings on all cores"
    contenders = {f"{arch}, {name}": lambda arch=arch, fast=fast: fit_once(survey, arch, fast) for arch in EPOCHS for name, fast in (("stock", False), ("fast path", True))}
    return interleaved(contenders, args.repeats)


# Prediction

def stock_predictions(run, survey, split, workers):
    "`learn.get_preds` over the stock loader, one view of each galaxy"
    dls = stock_dls(survey, split, run.card["arch"], workers=workers)
    learn = learner(dls, survey, split, run.card["arch"])
    learn.model.load_state_dict(run.networks[0].state_dict())
    return lambda: rate(lambda: learn.get_preds(dl=dls.valid), int((split == "valid").sum()))


def predict_part(survey, args):
    "Galaxies a second from files (and from the packed file) to a table, without flag and Gaussian process, and with them"
    half = np.where(np.arange(len(survey)) < 512, "train", "valid")
    rest, contenders = survey.select(half == "valid"), {}
    listed, table = args.work / "list.txt", args.work / "table.parquet"
    listed.write_text("".join(f"{Path(f).resolve()}\n" for f in rest.image_files))
    for arch, epochs in (("xresnet_tiny", 2), ("xresnet18", 1)):
        run = small_run(survey.select(half == "train"), args.work / f"run-{arch}", arch=arch, epochs=epochs, init=None)
        for w in [w for w in (0, 2, 4) if w <= CORES]: contenders[f"{arch}, learn.get_preds, {w} workers"] = stock_predictions(run, survey, half, w)
        contenders[f"{arch}, predict, one view"] = lambda run=run: rate(lambda: predict(run, listed, table, tta=False), len(rest))
        contenders[f"{arch}, predict, eight views"] = lambda run=run: rate(lambda: predict(run, listed, table), len(rest))
    few = small_run(survey.select(np.arange(len(survey)) < 400), args.work / "run-few")
    contenders["few labels (5 networks, eight views, Gaussian process, flag), predict"] = lambda: rate(lambda: predict(few, listed, table), len(rest))
    return interleaved(contenders, args.repeats)


def small_run(survey, out, **options):
    "A Run, trained where it is not there yet"
    return read_run(out) if (out / "model.json").is_file() else train(survey, out, quiet=True, **options)


# Memory

def memory_part(survey, args):
    "Peak resident memory [MB] of a process that predicts, for a list and for one ten times as long, and of one that trains"
    run, found = small_run(survey.select(np.arange(len(survey)) < 512), args.work / "run-xresnet_tiny", arch="xresnet_tiny", epochs=2, init=None), {}
    files = [str(Path(f).resolve()) for f in survey.image_files]
    for n in (2000, 20_000):
        (args.work / f"list{n}.txt").write_text("".join(f"{files[i % len(files)]}\n" for i in range(n)))
        found[f"predict, {n} cutouts"] = {"peak_MB": peak("predict", run.path, args.work / f"list{n}.txt", "--no-tta", "--out", args.work / "memory.parquet")}
    out = args.work / "run-memory"
    shutil.rmtree(out, ignore_errors=True)
    found[f"train, {len(survey)} cutouts of 128 px ({3 * 128**2 * len(survey) / 1e6:.0f} MB of pixels)"] = {"peak_MB": peak("train", survey.path, "--out", out, "--epochs", 1, "--init", "none")}
    return found


def peak(*arguments):
    "Peak resident memory [MB] of a command"
    code = f"from galaxy_cnn.cli import app; app({[str(a) for a in arguments]!r}, standalone_mode=False); print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    return int(subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True).stdout.split()[-1]) / 1024


# Table and figure

def ratios(parts):
    "The ratios that the README quotes, each against the best that a user would have without this package"
    def median(part, name, key="images_per_second"): return parts[part][name][key]["median"]
    best = lambda part, word, key="images_per_second": max(v[key]["median"] for name, v in parts[part].items() if word in name)
    found = {}
    for name in (n for n in parts.get("loader", {}) if n.startswith("in memory")):
        found[f"loader {name}: images/s a core over fastai's DataBlock"] = median("loader", name, "per_core") / best("loader", "fastai", "per_core")
    for arch in EPOCHS:
        if "step" in parts and f"{arch}, bfloat16 (what train does)" in parts["step"]:
            found[f"step, {arch}"] = median("step", f"{arch}, bfloat16 (what train does)") / median("step", f"{arch}, float32, fastai's optimiser")
        if "fit" in parts: found[f"whole training, {arch}"] = median("fit", f"{arch}, fast path") / median("fit", f"{arch}, stock")
        if "predict" in parts: found[f"predict, one view, over learn.get_preds, {arch}"] = median("predict", f"{arch}, predict, one view") / best("predict", f"{arch}, learn.get_preds")
    return found


def table_of(results):
    "The results as Markdown"
    lines = ["# Speed on a CPU", "", f"`python benchmarks/speed.py` on {results['machine']['cpu']}, {results['machine']['cores']} cores, torch {results['machine']['versions']['torch']}; mock cutouts of 128 px. "
             "Median of interleaved repeats, range in brackets.", "", "| ratio | |", "|---|---|", *(f"| {k} | {v:.1f}x |" for k, v in results["ratios"].items()), *(f"\n{remark}" for remark in results["remarks"])]
    for part, rows in results["parts"].items():
        keys = list(dict.fromkeys(k for v in rows.values() if isinstance(v, dict) for k in v))
        lines += ["", f"## {part}", "", f"| | {' | '.join(k.replace('_', ' ') for k in keys)} |", "|---|" + "---|" * len(keys)]
        lines += [f"| {name} | {' | '.join(cell(v.get(k)) for k in keys)} |" for name, v in rows.items() if isinstance(v, dict)]
        lines += [f"\n{name}: {', '.join(v)}" for name, v in rows.items() if isinstance(v, list)]
    return "\n".join(lines) + "\n"


def cell(v):
    "A number with its range"
    if not isinstance(v, dict): return "" if v is None else f"{v:.0f}"
    digits = 4 if v["median"] < 1 else 1 if v["median"] < 100 else 0
    return f"{v['median']:.{digits}f} ({v['min']:.{digits}f}, {v['max']:.{digits}f})"


DRAWN = {"loader": "loading", "fit": "whole training", "predict": "prediction"}


def figure(results):
    "Rates of loaders, whole trainings and prediction, ours in red"
    parts = [p for p in DRAWN if p in results["parts"]]
    rows = {p: {n: v for n, v in results["parts"][p].items() if isinstance(v, dict)} for p in parts}
    fig = new_figure(9, 0.24 * sum(len(r) for r in rows.values()) + 1.2 * len(parts))
    axes = np.atleast_1d(fig.subplots(len(parts), 1, height_ratios=[len(rows[p]) + 1 for p in parts]))
    for ax, part in zip(axes, parts):
        names, key = list(rows[part])[::-1], "per_core" if part == "loader" else "images_per_second"
        values = [rows[part][n][key]["median"] for n in names]
        ours = [any(w in n for w in ("in memory", "fast path", "predict,", "), predict")) and "get_preds" not in n for n in names]
        ax.barh(names, values, color=["#c1272d" if o else "0.6" for o in ours])
        for i, v in enumerate(values): ax.text(v, i, f" {v:,.0f}", va="center", fontsize=8)
        ax.set(xscale="log", xlim=(min(values) / 2, max(values) * 3), xlabel="images/s a core, second epoch" if part == "loader" else f"images/s, {results['machine']['cores']} cores")
        ax.tick_params(labelsize=8)
        ax.set_title(DRAWN[part], loc="left", fontsize=10)
    return fig


def machine():
    "What this was measured on"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": name, "cores": CORES, "half_precision": sorted(cpu_flags() & {"avx512_bf16", "amx_bf16"}), "python": platform.python_version(), "versions": versions()}


PARTS = {"decode": decode_part, "loader": loader_part, "step": step_part, "fit": fit_part, "predict": predict_part, "memory": memory_part}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/speed"))
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks.json"))
    args = parser.parse_args()
    torch.set_num_threads(CORES)
    survey = make_mock(args.work / f"sky-{N}", n=N, seed=SEED)
    pack(survey.path)
    results = read_json(args.out) if args.out.is_file() else {"parts": {}}
    for part in args.part:
        results["parts"][part] = PARTS[part](survey, args)
        results = {"what": "images a second on a CPU, beside what a user would pick instead", "sky": "mock", "machine": machine(), "ratios": ratios(results["parts"]), "remarks": results.get("remarks", []), "parts": results["parts"]}
        write_json(args.out, results)
    args.out.with_suffix(".md").write_text(table_of(results))
    if set(results["parts"]) & set(DRAWN): figure(results).savefig(args.out.with_suffix(".png"), dpi=110)
    print(table_of(results))


if __name__ == "__main__": main()
