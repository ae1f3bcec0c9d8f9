"What a user would pick instead: the tutorial's DataBlock, fastai's optimisers, float32; shared by the benchmarks of speed and of accuracy."
from dataclasses import replace

from fastai.callback.core import Callback
from fastai.optimizer import Adam, ranger

from galaxy_cnn.learner import RECIPES, make_learner, seed_all, target_scale
from galaxy_cnn.loaders import in_memory_dls, make_dls
from galaxy_cnn.models import create_model

FASTAI = {"adam": Adam, "ranger": ranger}


def stock_dls(survey, split, arch, size=112, seed=0, workers=0): return make_dls(survey, split, bs=RECIPES[arch].bs, size=size, seed=seed, workers=workers, device="cpu")


def fast_dls(survey, split, pixels, arch, size=112, seed=0):
    return in_memory_dls(survey, split, pixels, bs=RECIPES[arch].bs, size=size, seed=seed, augment=RECIPES[arch].augment, device="cpu")


def learner(dls, survey, split, arch, precision="fp32", fastai=False, cbs=(), seed=0):
    "A Learner over either loader, with our optimiser or fastai's"
    seed_all(seed, 0, -1)
    recipe = RECIPES[arch]
    model = create_model(arch, 1, False, *target_scale(survey, split, ["metallicity"]), sigma=True)
    learn = make_learner(dls, model, replace(recipe, bs=dls.train.bs), precision, cbs)
    if fastai: learn.opt_func = FASTAI[recipe.opt]
    return learn


class Rmse(Callback):
    "RMSE [dex] of the last validation"
    order = 70
    def before_validate(self): self.squares, self.n = 0.0, 0

    def after_batch(self):
        if self.training: return
        self.squares, self.n = self.squares + float((self.pred[:, 0] - self.yb[0]).square().sum()), self.n + len(self.pred)

    def after_validate(self): self.value = (self.squares / self.n) ** 0.5
