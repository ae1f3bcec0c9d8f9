"What a user would pick instead: the tutorial's DataBlock, fastai's optimizers, float32, a loop of plain PyTorch"
from dataclasses import replace

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.optimizer import Adam, ranger
from PIL import Image

from galaxy_cnn.learner import RECIPES, make_learner, seed_all, target_scale
from galaxy_cnn.loaders import in_memory_dls, make_dls
from galaxy_cnn.models import create_model

FASTAI = {"adam": Adam, "ranger": ranger}


def stock_dls(survey, split, arch, size=112, seed=0, workers=0):
    "The DataBlock: each JPEG is read, turned, cropped and collated on the CPU, in every epoch"
    return make_dls(survey, split, bs=RECIPES[arch].bs, size=size, seed=seed, workers=workers, device="cpu")


def fast_dls(survey, split, pixels, arch, size=112, seed=0):
    "Cutouts in memory, as `train` has them"
    recipe = RECIPES[arch]
    options = dict(bs=recipe.bs, size=size, seed=seed, augment=recipe.augment, device="cpu")
    return in_memory_dls(survey, split, pixels, **options)


class Pictures(torch.utils.data.Dataset):
    "The loop that people write: Pillow, a random crop of the padded picture, flips and quarter turns"
    def __init__(self, files, y, size=112, stats=None):
        self.files, self.y, self.size = files, y, size
        self.stats = stats and [torch.tensor(s).view(3, 1, 1) for s in stats]  # None: gives bytes, not normalized

    def __len__(self): return len(self.files)

    def __getitem__(self, i):
        image = np.array(Image.open(self.files[i]).convert("RGB"))
        image = torch.nn.functional.pad(torch.from_numpy(image).movedim(2, 0), (8, 8, 8, 8))
        room = image.shape[1] - self.size + 1
        top, left, turns, flip = (int(torch.randint(n, ())) for n in (room, room, 4, 2))
        image = image[:, top:top + self.size, left:left + self.size]
        image = torch.rot90(image, turns, (1, 2))
        if flip: image = image.flip(2)
        if self.stats is None: return image.contiguous(), self.y[i]
        mean, std = self.stats
        return (image.float() / 255 - mean) / std, self.y[i]


def learner(dls, survey, split, arch, precision="fp32", fastai=False, cbs=(), seed=0):
    "A Learner over either loader, with our optimizer or fastai's"
    seed_all(seed, 0, -1)
    recipe = RECIPES[arch]
    model = create_model(arch, 1, False, *target_scale(survey, split, ["metallicity"]), sigma=True)
    learn = make_learner(dls, model, replace(recipe, bs=dls.train.bs), precision, cbs)
    if fastai:
        learn.opt_func = FASTAI[recipe.opt]
        learn.model.to(memory_format=torch.contiguous_format)
    return learn


class Rmse(Callback):
    "RMSE [dex] of the last validation"
    order = 70
    def before_validate(self):
        self.squares = 0.0
        self.n = 0

    def after_batch(self):
        if self.training: return
        self.squares += float((self.pred[:, 0] - self.yb[0]).square().sum())
        self.n += len(self.pred)

    def after_validate(self): self.value = (self.squares / self.n) ** 0.5
