"""Chapters 38 and 39: maps that are known, any architecture and head, Surveys that know little, and wrong input."""
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn

from galaxy_cnn import explain as explain_module
from galaxy_cnn.attribution import (
    CONTROL_KINDS,
    TOLERANCE,
    attribution_maps,
    crossed_bootstrap,
    grad_cam,
    half_radius,
    integrated_gradients,
    map_correlation,
    network_stages,
    output_of,
    pixel_radius,
    random_maps,
    randomized,
    run_maps,
    seen_width,
    sky_baseline,
)
from galaxy_cnn.explain import (
    GRID,
    auc,
    candidates,
    choose_examples,
    classifier_split,
    correlations,
    explain,
    grid_assignment,
    make_context,
    penultimate,
    plane_limits,
    principal_components,
    quantities,
    read_sample,
)
from galaxy_cnn.files import InputError, read_json
from galaxy_cnn.images import read_images
from galaxy_cnn.models import create_model, network_input
from galaxy_cnn.splits import Split
from galaxy_cnn.train import train

ARCHS = ("xresnet_tiny", "xresnet9")


def network(arch, n_out=1, seed=0, **kwargs):
    "A network with random weights and batch statistics of random images, in eval mode"
    torch.manual_seed(seed)
    model = create_model(arch, n_out, **kwargs)
    for p in model.net[-1].parameters(): nn.init.normal_(p, std=0.1)
    with torch.no_grad(): model.train()(torch.rand(8, 3, 112, 112))
    return model.eval()


@pytest.fixture(scope="module")
def run(mock_survey, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return train(mock_survey, out, epochs=3, folds=2, init=None, precision="fp32", calibrate=False, quiet=True)


@pytest.fixture(scope="module")
def explained(run): return explain(run, n=12, draws=1)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("attention", [False, True])
def test_features_are_what_the_last_layer_is_given(arch, attention):
    model, x = network(arch, 2, self_attention=attention), torch.rand(5, 3, 112, 112)
    linear = next(m for m in model.net[-1].modules() if isinstance(m, nn.Linear))
    features = torch.from_numpy(penultimate(model, x, bs=2))
    with torch.no_grad(): assert torch.allclose(linear(features)[:, :2], model(x)[:, :2], atol=1e-4)
    assert not model.net[-1]._forward_pre_hooks  # the hook is gone


class TwoHeads(nn.Module):
    "Means, and behind them logarithms of sigmas"
    def __init__(self, n_in):
        super().__init__()
        self.mean, self.sigma = nn.Linear(n_in, 1), nn.Linear(n_in, 1)

    def forward(self, x): return torch.cat([self.mean(x), self.sigma(x.detach())], 1)


def test_a_head_with_sigmas_is_explained_by_its_means(mock_survey):
    model = network("xresnet_tiny")
    images = read_images(mock_survey.image_files[:3])
    stats = ([0.1] * 3, [0.1] * 3)
    plain = attribution_maps(model, output_of(model), images, 112, stats, 8)
    head = TwoHeads(model.net[-1].in_features)
    head.mean.load_state_dict(model.net[-1].state_dict())
    model.net[-1], model.units = head, nn.Identity()
    wide = attribution_maps(model, output_of(model), images, 112, stats, 8)
    assert np.allclose(plain.ig, wide.ig, atol=1e-7) and np.allclose(plain.cam, wide.cam, atol=1e-6)
    name, stage = next(iter(network_stages(model).items()))
    assert name == "head" and isinstance(stage, TwoHeads)


@pytest.mark.parametrize("arch", ARCHS)
def test_maps_add_up_and_stay_within_what_is_seen(arch, mock_survey):
    model = network(arch)
    images = read_images(mock_survey.image_files[:3])
    steps = 64 if arch == "xresnet_tiny" else 32
    maps = attribution_maps(model, output_of(model), images, 112, ([0.1] * 3, [0.1] * 3), steps)
    assert maps.ig.shape == maps.cam.shape == (3, 112, 112)
    assert np.abs(maps.gap()).max() < 0.05 * np.abs(maps.answer - maps.empty).max() + TOLERANCE
    edge = (112 - seen_width(model, 112)) // 2
    assert edge == (8 if arch == "xresnet_tiny" else 0)
    frame = np.ones((112, 112), bool)
    frame[edge:112 - edge, edge:112 - edge] = False
    assert not maps.ig[:, frame].any() and not maps.cam[:, frame].any()


def test_the_baseline_is_the_sky_of_each_channel_and_gets_no_share():
    images = np.full((2, 128, 128, 3), (7, 9, 12), np.uint8)
    images[:, 50:78, 50:78] = 200
    stats = ([0.05] * 3, [0.1] * 3)
    flat = sky_baseline(images, 112, stats)
    assert torch.allclose(flat[0].mean((1, 2)), (torch.tensor([7.0, 9.0, 12.0]) / 255 - 0.05) / 0.1)
    maps = integrated_gradients(lambda v: v.sum((1, 2, 3)), network_input(images, 112, stats), flat, 4)
    light = np.zeros((112, 112), bool)
    light[42:70, 42:70] = True
    assert np.allclose(maps[:, ~light], 0, atol=1e-5) and (maps[:, light] > 1).all()


def test_grad_cam_changes_sign_with_the_answer():
    model, x = network("xresnet_tiny"), torch.rand(2, 3, 112, 112)
    up, down = grad_cam(model, output_of(model), x), grad_cam(model, lambda v: -model(v)[:, 0], x)
    assert np.allclose(up, -down, atol=1e-7) and (up > 0).any() and (up < 0).any()  # no ReLU


@pytest.mark.parametrize("size", [64, 96, 112, 128])
def test_grad_cam_fills_the_crop_at_any_size(size):
    model = network("xresnet_tiny")
    assert grad_cam(model, output_of(model), torch.rand(1, 3, size, size)).shape == (1, size, size)


def test_grad_cam_finds_where_the_light_is():
    model = network("xresnet9")
    x = torch.zeros(1, 3, 112, 112)
    x[..., :40, :40] = 3
    left = np.abs(grad_cam(model, output_of(model), x) - grad_cam(model, output_of(model), 0 * x))[0]
    assert left[:56, :56].mean() > 3 * left[56:, 56:].mean()


@pytest.mark.parametrize("arch", ARCHS)
def test_randomizing_starts_at_the_head_and_goes_down(arch):
    model, x = network(arch), torch.rand(8, 3, 112, 112)
    names = list(network_stages(model))
    assert names[0] == "head" and names[-1].startswith("stem")
    before = model.state_dict()
    for depth in (1, len(names)):
        other = randomized(model, depth, x, seed=3)
        stages = zip(network_stages(model).values(), network_stages(other).values())
        changed = [any(not torch.equal(*p) for p in zip(old.parameters(), new.parameters())) for old, new in stages]
        assert changed == [i < depth for i in range(len(names))]
        assert not any(m.training for m in other.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    again = randomized(model, len(names), x, seed=3)
    another = randomized(model, len(names), x, seed=4)
    with torch.no_grad(): assert torch.equal(other(x), again(x)) and not torch.equal(other(x), another(x))


@given(st.integers(0, 2**31), st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_no_two_thumbnails_share_a_cell_and_no_galaxy_is_drawn_twice(seed, n):
    points = np.random.default_rng(seed).normal(size=(n, 2)) * [3, 1]
    limits = plane_limits(points)
    chosen = grid_assignment(points, limits)
    assert len(set(chosen.values())) == len(chosen) <= GRID[0] * GRID[1]
    step = np.ptp(limits, axis=1) / GRID
    for cell, i in chosen.items():
        low = limits[:, 0] + np.array(cell) * step
        assert (points[i] >= low - 1e-9).all() and (points[i] <= low + step + 1e-9).all()


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40))
@settings(max_examples=50, deadline=None)
def test_auc_is_scikit_learns(pairs):
    high, score = (np.array(v, float) for v in zip(*pairs))
    if high.min() == high.max(): assert np.isnan(auc(high, score))
    else: assert auc(high, score) == pytest.approx(roc_auc_score(high, score))
    assert np.array_equal(auc(np.stack([high, high]), np.stack([score, -score]))[0], auc(high, score), equal_nan=True)


def test_components_grow_with_the_target_whatever_the_sign_of_the_features():
    rng = np.random.default_rng(0)
    oh = rng.normal(size=200)
    features = np.outer(oh, rng.normal(size=6)) + 0.1 * rng.normal(size=(200, 6))
    (a, shares), (b, _) = principal_components(features, oh), principal_components(-features, oh)
    assert np.allclose(a, b) and (np.diff(shares) <= 0).all() and np.corrcoef(a[:, 0], oh)[0, 1] > 0.99


def test_correlations_leave_missing_values_out():
    rng = np.random.default_rng(0)
    score = rng.normal(size=(100, 1))
    values = np.where(np.arange(100) < 30, np.nan, score[:, 0])
    few = np.where(np.arange(100) < 5, score[:, 0], np.nan)
    found = correlations(score, {"half": values, "constant": np.ones(100), "few": few})
    assert list(found) == ["half"] and found["half"][0]["n"] == 70 and found["half"][0]["value"] == pytest.approx(1)


def test_rank_correlation_does_not_care_for_what_lies_outside():
    rng = np.random.default_rng(1)
    a, b, inside = rng.normal(size=(3, 20, 20)), rng.normal(size=(3, 20, 20)), np.zeros((20, 20), bool)
    inside[5:15, 5:15] = True
    found = map_correlation(np.where(inside, a, b), a, inside)
    assert set(found) == set(CONTROL_KINDS) and all(np.allclose(v, 1) for v in found.values())
    assert np.abs(map_correlation(a, b, inside)["signed"]).max() < 0.35


def test_the_two_way_interval_knows_both_kinds_of_scatter():
    rng = np.random.default_rng(2)
    def width(v): return crossed_bootstrap(v)["hi"] - crossed_bootstrap(v)["lo"]
    per_draw, per_galaxy = rng.normal(size=(5, 1)), rng.normal(size=(1, 24))
    assert width(per_draw + 0 * per_galaxy) > 0.5 and width(per_galaxy + 0 * per_draw) > 0.3
    assert width(np.ones((5, 24))) == 0


def test_half_of_a_gaussian():
    sigma = 10.0
    expected = sigma * np.sqrt(2 * np.log(2))
    for size, width, tolerance in ((112, 128, 0.3), (56, 64, 0.6)):  # the same picture, at half the pixels
        radius = pixel_radius(size, width)
        light = np.exp(-radius**2 / 2 / sigma**2)
        assert half_radius(light[None], radius)[0] == pytest.approx(expected, abs=tolerance)


def test_the_classifier_is_scored_on_what_network_0_has_not_seen(run):
    names = run.split.names
    own = classifier_split(run.split)
    assert set(names[own == "valid"]) == {"fold0"} and set(names[own == "train"]) == {"fold1"}
    assert "buffer" not in set(names[own != ""])
    plain = Split.make(run.survey().catalog)
    own = classifier_split(plain)
    assert np.array_equal(own == "valid", plain.names == "test")
    assert np.array_equal(own == "train", plain.names == "train")


def test_without_folds_network_0_answers_for_the_test_galaxies(mock_survey):
    split = Split.make(mock_survey.catalog)
    sample = read_sample(mock_survey, split, "metallicity", np.flatnonzero(split.held_out)[:3])
    assert sample.network.tolist() == [0, 0, 0] and len(sample) == 3


def test_maps_of_a_run_come_from_the_right_network_in_any_order(run):
    images, network = read_images(run.survey().image_files[:5]), np.array([1, 0, 1, 1, 0])
    found = run_maps(run, images, network, steps=2)
    for k in (0, 1):
        own = attribution_maps(run.networks[k], output_of(run.networks[k]), images, run.size, run.mean_std(k), 2)
        for name in ("ig", "cam", "answer", "empty"):
            assert np.allclose(getattr(found, name)[network == k], getattr(own, name)[network == k], atol=1e-6)


def test_more_draws_than_galaxies_leave_no_map_out(run):
    images = read_images(run.survey().image_files[:2])
    blind = random_maps(run, images, np.array([0, 1]), draws=5)
    assert np.abs(blind).max((1, 2)).all()


def test_the_folder_holds_figures_captions_and_numbers(run, explained):
    folder = run.path / "explain"
    captions = read_json(folder / "captions.json")
    assert sorted(captions) == sorted(f.name for f in folder.glob("*.png")) and len(captions) == 7
    assert all("mock" in c and "nan" not in c for c in captions.values())
    assert read_json(folder / "explain.json")["sky"] == "mock" and not list(folder.glob(".*"))
    assert explained["attribution"]["completeness"]["largest"] < TOLERANCE
    held_out = set(run.split.objID[run.split.held_out].astype(str))
    assert held_out.issuperset(i for ids in explained["galleries"].values() for i in ids)


def test_every_number_has_its_interval_and_n(explained):
    found = []
    def walk(v):
        if isinstance(v, dict) and "lo" in v: found.append(v)
        elif isinstance(v, dict): [walk(x) for x in v.values()]
        elif isinstance(v, list): [walk(x) for x in v]
    walk(explained)
    assert len(found) > 80 and all(v["lo"] <= v["hi"] and v["n"] > 0 and np.isfinite(v["value"]) for v in found)


def test_a_second_call_says_the_same(run, explained):
    c = make_context(run, n=12, draws=1)
    assert explain_module.explain_galleries(c)[0] == explained["galleries"]
    assert explain_module.explain_classifier(c)[0] == explained["classifier"]


def test_captum_is_asked_for_in_a_sentence(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(InputError, match=r"pip install 'galaxy_cnn\[explain\]'"): explain(run, out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_wrong_input(run, mock_survey, tmp_path):
    with pytest.raises(InputError, match="take 12 or more"): explain(run, n=3)
    with pytest.raises(InputError, match="it predicts metallicity"): explain(run, target="log_mass")
    with pytest.raises(InputError, match="holds no Run"): explain(tmp_path)
    few = mock_survey.select(np.arange(240) < 5)
    split = Split(few.catalog["objID"].to_numpy(), np.full(5, "test"), "random", 0)
    with pytest.raises(InputError, match="5 held-out galaxies"): candidates(run, few, split, "metallicity")


def test_too_few_galaxies_for_a_classifier_are_a_reason_not_an_end(run, monkeypatch):
    def refuse(*args): raise InputError("too few galaxies")
    monkeypatch.setattr(explain_module, "classify", refuse)
    found, figures, captions = explain_module.explain_classifier(make_context(run))
    assert found == {"reason": "too few galaxies"} and not figures and not captions


def test_galaxies_of_which_only_the_picture_and_the_metallicity_are_known(real, tmp_path):
    options = dict(epochs=2, folds=2, init=None, precision="fp32", calibrate=False, quiet=True, drop_bad=True)
    run = train(real / "sdss_sample", tmp_path / "run", **options)
    c = make_context(run, n=12, draws=1)
    some = np.isin(np.arange(len(c.survey)), choose_examples(c.rows, 20))
    known = quantities(c.survey.select(some), "metallicity")
    assert "log_mass" not in known and "g - r, catalog" not in known and np.isfinite(known["g - r, image"]).all()
    found, figures, captions = explain_module.explain_features(c)
    assert c.sky == "sdss_sample" and "sdss_sample" in captions["feature_space"] and found["n"] > 100
    numbers, *_ = explain_module.explain_radius(c)
    assert numbers["completeness"]["largest"] < TOLERANCE
