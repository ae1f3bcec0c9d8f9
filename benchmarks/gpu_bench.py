"What the sections of benchmarks/gpu.py share: sizes, clock, numbers with units, galaxies, a Learner, scores"
import os
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException, CancelValidException
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from fastai.optimizer import ranger as fastai_ranger
from harness import Budget, times
from torch.utils.flop_counter import FlopCounterMode
from units import quantity, rates, repeated_quantity

from galaxy_cnn.learner import TUTORIAL, CapturedStep, EpochHistory, EpochSeed, make_learner, seed_all, target_scale
from galaxy_cnn.loaders import in_memory_dls, load_cutouts, make_dls
from galaxy_cnn.metrics import bootstrap, rmse
from galaxy_cnn.models import FaithfulLoss, create_model, network_input, predict_tta
from galaxy_cnn.run import Run
from galaxy_cnn.splits import assign_split
from galaxy_cnn.survey import Survey, pack, read_survey, write_survey

TARGETS = ("metallicity",)


@dataclass(frozen=True)
class Sizes:
    "How large everything is"
    galaxies: int = 4000  # distinct ones
    train: int = 104_000  # as many as in the tutorial
    valid: int = 26_112  # whole batches of 512
    held: int = 26_112  # to predict for
    archs: tuple = ("xresnet18", "xresnet34")
    px: int = 112
    epochs: int = 7
    bs: tuple = (128, 512)
    same_bs: int = 32  # of the fit on the distinct galaxies, so that it has some 800 steps
    steps: int = 30  # in a block that is timed
    repeats: int = 5
    copy: int = 2**31  # [bytes]
    matmul: int = 8192  # rows and columns
    workers: tuple = (12, 8, 4, 0)  # of the stock loaders
    window: float = 3.0  # [s] over which a stock loader is timed
    drawers: int | None = None  # processes that draw; None: one for each core
    patience: float = 1.0  # times the sections' seconds
    compiled: tuple = (("default", {}), ("cuda graphs", {"mode": "reduce-overhead"}))  # arguments of `model.compile`


SMALL = Sizes(
    galaxies=150, train=96, valid=32, held=48, archs=("xresnet_tiny",), px=64, epochs=2, bs=(16, 32), same_bs=16,
    steps=2, repeats=2, copy=2**22, matmul=128, workers=(1, 0), window=0.1, drawers=1, patience=20,
    compiled=(("no kernels", {"backend": "eager"}),))


@dataclass
class Galaxies:
    "A Survey, and what is made of it once"
    survey: Survey
    px: int  # width of the crop
    device: str  # where the pixels lie

    def __len__(self): return len(self.survey)

    @cached_property
    def split(self): return assign_split(self.survey.catalog)

    @cached_property
    def pixels(self): return load_cutouts(self.survey, self.device)[0]

    @cached_property
    def stats(self):
        "Mean and standard deviation of the training images"
        return in_memory_dls(self.survey, self.split, self.pixels, TARGETS, 2, self.px).stats

    def files(self, rows): return np.array(self.survey.image_files, object)[rows]


@dataclass
class Bench:
    "What the sections share"
    sizes: Sizes
    device: str
    precision: str
    work: Path  # a folder that is deleted afterwards
    budget: Budget
    found: dict = field(default_factory=dict)  # what each section found
    galaxies: dict = field(default_factory=dict)  # `Galaxies`: sky (the distinct), survey (to train on), held
    n_test: int = 0  # distinct test galaxies, the first of `held`
    run: Run | None = None  # of the last cold training

    @property
    def cuda(self): return self.device == "cuda"

    def clock(self):
        "The time when the device has done all that it was told to"
        if self.cuda: torch.cuda.synchronize()
        return time.perf_counter()

    def times(self, work, repeats=1, warm=0): return times(work, repeats, warm, self.clock)

    @cached_property
    def flops(self):
        "Operations of forward and backward pass for an image, by architecture"
        return {arch: count_flops(arch, self.sizes.px) for arch in self.sizes.archs}

    def share_of_peak(self, pace, arch):
        "Share of the matrix product's pace, from the operations of forward and backward pass"
        peak = self.found["ceilings"]["matmul"]["value"] * 1e12
        shares = {k: pace[k] * self.flops[arch] / peak for k in ("value", "lo", "hi")}
        return shares | {"unit": "of the matrix product's pace"}

    def learner(self, name, arch, bs, cbs=()):
        "A Learner over galaxies in memory, as `train` makes it"
        galaxies = self.galaxies[name]
        options = dict(bs=bs, size=self.sizes.px, stats=galaxies.stats, device=torch.device(self.device))
        seed_all(0, 0, -1)
        dls = in_memory_dls(galaxies.survey, galaxies.split, galaxies.pixels, TARGETS, **options)
        return make_learner(dls, network(galaxies, arch), replace(TUTORIAL, bs=bs), self.precision, cbs)

    def held_images(self, n=None):
        "Images uint8 [n, H, W, 3] to predict for"
        return self.galaxies["held"].pixels[:n].movedim(1, 3).contiguous().numpy()

    def score(self, pred, first=None):
        "RMSE of what is predicted for the distinct test galaxies, which come first"
        n = min(self.n_test, first or self.n_test)
        true = self.galaxies["held"].survey.target(TARGETS[0])[:n]
        return {**bootstrap(rmse, true, np.asarray(pred, float)[:n]), "unit": "dex"}

    def score_network(self, model, stats):
        "`score` of a network, of one view of each galaxy"
        images = self.held_images(self.n_test)
        model.eval()
        def predict(part):
            x = network_input(part, self.sizes.px, stats, self.device)
            return predict_tta(model, x, False, self.precision).mean(0)[:, 0].cpu()
        return self.score(torch.cat([predict(images[i:i + 256]) for i in range(0, len(images), 256)]))


def count_flops(arch, px):
    "Operations (2 for a multiplication and addition) of forward and backward pass, an image"
    model = create_model(arch, 1, sigma=True)
    with FlopCounterMode(display=False) as counter: model(torch.randn(2, 3, px, px)).sum().backward()
    return counter.get_total_flops() / 2


# Galaxies over and over

def repeat_galaxies(bench, name, rows):
    "A packed Survey of rows of the mock sky's catalog, the same galaxies over and over, under new ids"
    sky, folder = bench.galaxies["sky"], bench.work / name
    catalog = sky.survey.catalog.iloc[rows].reset_index(drop=True).assign(objID=np.arange(1, len(rows) + 1))
    (folder / "images").mkdir(parents=True)
    for source, i in zip(sky.files(rows), catalog["objID"]): link(source, folder / "images" / f"{i}.jpg")
    note = f"{len(np.unique(rows))} galaxies, repeated"
    write_survey(folder, catalog, {**sky.survey.info, "n": len(rows), "note": note})
    pack(folder)
    # what is predicted for comes from memory, as pictures do that a user hands over
    return Galaxies(read_survey(folder), bench.sizes.px, "cpu" if name == "held" else bench.device)


def link(source, target):
    "A second name for a file, or a copy where there can be none"
    try: os.link(source, target)
    except OSError: Path(target).write_bytes(Path(source).read_bytes())


# Learners

def network(galaxies, arch):
    "An untrained network on the scale of its targets"
    scale = target_scale(galaxies.survey, galaxies.split, TARGETS)
    return create_model(arch, len(TARGETS), False, *scale, sigma=True)


def stock_dls(bench, name, bs, workers, split=None):
    "The DataBlock of `galaxy_cnn.loaders`: each JPEG is read, cropped and collated on the CPU, in every epoch"
    galaxies, stats = bench.galaxies[name], bench.galaxies["survey"].stats
    split = galaxies.split if split is None else split
    device = torch.device(bench.device)
    return make_dls(galaxies.survey, split, TARGETS, bs, bench.sizes.px, stats, workers=workers, device=device)


def stock_learner(bench, name, dls):
    "fastai as it comes, in mixed precision on a GPU, with the same network, loss and recipe"
    seed_all(0, 0, -1)
    model = network(bench.galaxies[name], bench.sizes.archs[0]).to(bench.device)
    learn = Learner(dls, model, FaithfulLoss(model.units.std), fastai_ranger, lr=TUTORIAL.lr, wd=TUTORIAL.wd)
    learn.remove_cbs(ProgressCallback)
    learn.logger = lambda *_: None
    return learn.to_fp16() if bench.cuda else learn


# A fit

class InTime(Callback):
    "The times of the epochs and of their training; end the fit after an epoch when the next one would end too late"
    order = 95
    def __init__(self, bench): self.bench, self.epochs, self.training = bench, [], []
    def before_epoch(self): self.start = self.bench.clock()
    def after_train(self): self.training.append(self.bench.clock() - self.start)

    def after_epoch(self):
        self.epochs.append(self.bench.clock() - self.start)
        if time.perf_counter() + 1.1 * self.epochs[-1] > self.bench.budget.stop - 3: raise CancelFitException


class Window(Callback):
    "Train for a while, count the images of another while, and end"
    order = 100
    def __init__(self, bench, seconds): self.bench, self.window = bench, seconds
    def before_validate(self): raise CancelValidException

    def before_fit(self):
        self.begin = time.perf_counter()
        self.start, self.n = None, 0

    def after_batch(self):
        if self.start is None:
            if time.perf_counter() - self.begin > self.window / 2: self.start = self.bench.clock()
            return
        self.n += len(self.xb[0])
        if time.perf_counter() - self.start < self.window: return
        self.pace = self.n / (self.bench.clock() - self.start)
        raise CancelFitException


def fit(bench, name, arch, bs, change=lambda learn: None, captured=False):
    "Train a network on galaxies in memory, in a process that has trained before, and score it"
    bench.learner(name, arch, bs).fit(1000, cbs=Window(bench, bench.sizes.window / 4))
    said = []
    captured = [CapturedStep(bench.device, said.append)] if captured else []
    learn = bench.learner(name, arch, bs, [EpochHistory([], TARGETS), *captured])
    change(learn)
    found = time_fit(bench, learn)
    if said: found["note"] = said[0]
    learn.model._compiled_call_impl = None
    share = bench.share_of_peak(found["training"], arch)
    return {**found, "share of peak": share, "rmse": bench.score_network(learn.model, learn.dls.stats)}


def time_fit(bench, learn):
    "Times of a fit that ends in time"
    clock, epochs = InTime(bench), bench.sizes.epochs
    learn.add_cbs([clock, EpochSeed(0)])
    done = clock.epochs
    (seconds,) = bench.times(lambda: learn.fit_one_cycle(epochs, TUTORIAL.lr))
    found = {"epochs": quantity(len(done), "epochs"), "fit": quantity(seconds, "s"),
             "fit without validation": quantity(sum(clock.training), "s"), "first epoch": quantity(done[0], "s"),
             "epoch": repeated_quantity(done, "s"),
             "training": rates(len(learn.dls.train) * learn.dls.train.bs, clock.training)}
    if len(done) == epochs: return found
    whole = seconds + (epochs - len(done)) * found["epoch"]["value"]
    return {**found, "fit, extrapolated": quantity(whole, "s: the time was up before the last epoch")}
