"Features and baselines: faults, properties, real sample"
import numpy as np
import pytest

from galaxy_cnn.baselines import BASELINES, baseline_predictions, cross_validated_baselines
from galaxy_cnn.features import FEATURES, gini, integer_median, measure, measure_images
from galaxy_cnn.files import FEATURE_BATCH, InputError
from galaxy_cnn.gaussian_process import GaussianProcess, gp_columns
from galaxy_cnn.images import read_images
from galaxy_cnn.splits import assign_split
from galaxy_cnn.survey import Survey, read_survey


@pytest.fixture(scope="module")
def features(mock_survey): return measure(mock_survey.image_files)


def rmse(a, b): return float(np.sqrt(np.mean((np.asarray(a) - np.asarray(b)) ** 2)))


def test_every_feature_is_documented():
    assert 40 <= len(FEATURES) <= 80
    assert {f.group for f in FEATURES.values()} == {"sky", "brightness", "color", "size", "shape", "texture"}
    assert all(len(f.doc) > 3 for f in FEATURES.values()) and not any(FEATURES[c].group == "sky" for c in gp_columns())


def test_order_and_threads_change_nothing(mock_survey, features):
    turned = measure(mock_survey.image_files[::-1], workers=1)
    assert np.allclose(turned[::-1], features, atol=1e-4)
    assert measure(mock_survey.image_files, workers=3).equals(features)
    images = read_images(mock_survey.image_files[:2 * FEATURE_BATCH + 1])
    for workers in (1, 3): assert np.allclose(measure_images(images, workers), features[:len(images)], atol=1e-4)
    assert measure([]).shape == measure_images(images[:0]).shape == (0, len(FEATURES))


def random_image(size): return np.random.default_rng(0).integers(0, 256, (1, size, size, 3))


@pytest.mark.parametrize("images", [
    np.zeros((1, 128, 128, 3)),
    np.full((1, 128, 128, 3), 255),
    random_image(128),
    random_image(64),
    np.eye(120)[None, ..., None].repeat(3, 3) * 255,
], ids=("black", "white", "noise", "small", "line"))
def test_features_are_always_finite(images):
    assert np.isfinite(measure_images(images.astype(np.uint8)).to_numpy()).all()


@pytest.mark.parametrize("kind, top", [("uint8", 255), ("uint8", 1), ("int16", 3060)])
@pytest.mark.parametrize("k", [1, 2, 255, 256, 70_000])
def test_the_median_of_whole_numbers_is_exact(kind, top, k):
    values = np.random.default_rng(k).integers(0, top, (3, 2, k), kind, endpoint=True)
    values[0, 0] = top
    assert np.array_equal(integer_median(values), np.median(values, axis=-1))
    assert np.array_equal(integer_median(values[..., ::-2]), np.median(values[..., ::-2], axis=-1))


@pytest.mark.parametrize("seed", range(3))
def test_gini_is_half_the_mean_difference_over_the_mean(seed):
    values = np.random.default_rng(seed).normal(10, 20, (2, 60))
    for row, found in zip(np.abs(values), gini(values)):
        pairs = np.abs(np.subtract.outer(row, row)).sum() / (60 * 59)
        assert np.isclose(found, pairs / 2 / row.mean(), rtol=1e-3)
    assert np.allclose(gini(7 * values), gini(values), atol=1e-3)


def masked_features(image):
    "Features of one image by other means than `galaxy_cnn.features`: rings are masks, medians are sorts, in float64"
    from scipy.ndimage import uniform_filter
    size = len(image)
    x, y = np.meshgrid(*2 * [(np.arange(size) - (size - 1) / 2) * 128 / size])
    radius = np.hypot(x, y)
    corner, disk, sky = radius > 56, radius < 25, np.median(image[radius > 56], axis=0)
    signal = image - sky
    white = signal.mean(2)
    level = np.clip(white, -15, 15) - np.clip(white, -15, 15)[corner].mean()
    steps = ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]))
    pairs = np.concatenate([(level[a] * level[b])[corner[a] & corner[b]] for a, b in steps])
    light = np.abs(white[disk]).sum() + 1
    laplacian = np.abs(4 * white - sum(np.roll(white, step, axis) for step in (-1, 1) for axis in (0, 1)))
    outside = (radius >= 12) & (radius < 30)
    gr = -np.diff(np.arcsinh(signal[disk] / 8), axis=1)[:, 1]
    weight = np.clip(white[disk], 0, None)
    differences = np.abs(np.subtract.outer(*2 * [np.abs(white[disk])]))
    knots = np.clip(white - uniform_filter(white, 5), 0, None)[disk & (radius > 4)]
    return {
        "sky_r": sky[1],
        "noise_g": np.log(np.sqrt((np.clip(signal[corner][:, 2], -15, 15) ** 2).mean()) + 0.3),
        "correlation_1": pairs.mean() / ((level[corner] ** 2).mean() + 0.1),
        "brightness_4-7": np.arcsinh(signal[(radius >= 4) & (radius < 7)][:, 1].mean() / 8),
        "brightness_20-25": np.arcsinh(np.median(signal[(radius >= 20) & disk][:, 1]) / 8),
        "gr_total": (weight * gr).sum() / weight.sum(),
        "isophote_25": np.log1p(np.sqrt((white[radius < 45] > 25).sum() * (128 / size) ** 2 / np.pi)),
        "asymmetry": np.abs((white - white[::-1, ::-1])[disk]).sum() / light,
        "asymmetry_90": np.abs((white - np.rot90(white))[disk]).sum() / light,
        "gini": differences.sum() / 2 / disk.sum() / (disk.sum() - 1) / np.abs(white[disk]).mean(),
        "clumpiness": np.log(knots.sum() / light + 1e-4),
        "gradient": np.log(np.sqrt(sum(g[disk] @ g[disk] for g in np.gradient(white))) / light + 1e-5),
        "curvature_out": np.log(np.median(laplacian[outside]) + 0.3) - np.log(np.abs(white[outside]).mean() + 0.3),
    }


@pytest.mark.parametrize("size", [64, 101, 128])
def test_features_agree_with_masks_and_sorts(size):
    rng = np.random.default_rng(size)
    x, y = np.meshgrid(*2 * [(np.arange(size) - (size - 1) / 2) * 128 / size])
    galaxy = 150 * np.exp(-np.hypot(x, 2 * y) / 9)[..., None] * (1, 0.8, 0.5)
    image = np.clip(galaxy + rng.normal(9, 4, (size, size, 3)), 0, 255).astype("uint8")
    found = measure_images(image[None]).iloc[0]
    for name, value in masked_features(image).items():
        assert np.isclose(found[name], value, rtol=1e-4, atol=1e-4), (name, found[name], value)


def test_a_resampled_image_measures_alike(mock_survey, features):
    "Radii are in px of 128, whatever the width of the image"
    from PIL import Image
    images = read_images(mock_survey.image_files[:60])
    double = np.stack([np.asarray(Image.fromarray(i).resize((256, 256), Image.BICUBIC)) for i in images])
    for name in ("r50", "isophote_25", "gr_total", "ellipticity", "brightness_7-10", "concentration"):
        assert np.corrcoef(measure_images(double)[name], features[name][:60])[0, 1] > 0.98
        assert abs((measure_images(double)[name] - features[name][:60]).median()) < 0.06


def test_an_unreadable_image_is_named(tmp_path, mock_survey):
    (tmp_path / "bad.jpg").write_bytes(b"no")
    with pytest.raises(InputError, match="bad.jpg"): measure([*mock_survey.image_files[:2], tmp_path / "bad.jpg"])


def test_gaussian_process_keeps_a_part_of_many(monkeypatch):
    from galaxy_cnn import gaussian_process
    monkeypatch.setattr(gaussian_process, "GP_TUNE", 60)
    monkeypatch.setattr(gaussian_process, "GP_KEEP", 100)
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (400, 2))
    y = np.sin(2 * X[:, 0]) + 0.05 * rng.normal(size=400)
    order = rng.random(400)
    model = GaussianProcess(order).fit(X, y)
    assert len(model.model.X_train_) == 100 and rmse(model.predict(X), np.sin(2 * X[:, 0])) < 0.1
    shuffle = rng.permutation(400)
    again = GaussianProcess(order[shuffle]).fit(X[shuffle], y[shuffle])
    assert np.allclose(again.predict(X), model.predict(X), atol=1e-4)
    mean, sigma = model.predict(X, return_std=True)
    assert sigma.shape == (400,) and (sigma > 0).all()


def test_nothing_of_the_held_out_galaxies_is_used(mock_survey, features):
    train = assign_split(mock_survey.catalog) == "train"
    names = ("mean", "ridge", "random_forest_image")
    predicted = baseline_predictions(mock_survey, train, features=features, names=names)
    lying = mock_survey.select(np.full(len(mock_survey), True))
    lying.catalog["oh_p50"] = np.where(train, lying.catalog["oh_p50"], np.nan)
    strange = features.copy()
    strange[~train] = 3 * features[~train] + 1
    other = baseline_predictions(lying, train, features=strange, names=names)
    assert np.allclose(other[train], predicted[train], atol=1e-9)


def test_missing_columns_and_targets_give_reasons(mock_survey, features):
    bare = Survey(mock_survey.path, mock_survey.catalog[["objID", "oh_p50"]].copy())
    bare.catalog.loc[:4, "oh_p50"] = -9999
    out = baseline_predictions(bare, np.arange(len(bare)) < 100, features=features, names=("mean", "random_forest"))
    assert list(out) == ["mean"] and "modelMag_g, modelMag_r, modelMag_i" in out.attrs["missing"]["random_forest"]
    assert np.isclose(out["mean"][0], bare.target("metallicity")[5:100].mean())
    with pytest.raises(InputError, match="no column 'lgm_tot_p50'"):
        baseline_predictions(bare, np.full(len(bare), True), "log_mass", features=features)
    holes = mock_survey.select(np.full(len(mock_survey), True))
    holes.catalog.loc[::7, "modelMag_g"] = -9999
    out = baseline_predictions(holes, np.arange(len(holes)) < 100, features=features, names=("random_forest",))
    assert np.isfinite(out).all().all()


def test_shuffled_labels_score_like_the_mean(mock_survey, features):
    shuffled = mock_survey.select(np.full(len(mock_survey), True))
    shuffled.catalog["oh_p50"] = np.random.default_rng(0).permutation(shuffled.catalog["oh_p50"])
    out = cross_validated_baselines(shuffled, k=2, features=features, by="random")
    y = shuffled.target("metallicity")
    scores = {name: rmse(out[name], y) / rmse(out["mean"], y) for name in BASELINES}
    assert all(0.95 < s < 1.2 for s in scores.values()), scores


def test_galaxies_near_an_edge_are_not_predicted(mock_survey, features):
    sky = mock_survey.select(np.full(len(mock_survey), True))
    sky.catalog.loc[0, ["ra", "dec"]] = 45.0, 90.0
    out = cross_validated_baselines(sky, features=features, names=("mean",))
    assert np.isnan(out["mean"][0]) and np.isfinite(out["mean"][1:]).mean() > 0.95


def test_real_sample(real):
    "Five folds over 400 real galaxies: what `galaxy_cnn.features` and `galaxy_cnn.baselines` promise"
    survey = read_survey(real / "sdss_sample")
    table = measure(survey.image_files)
    y = survey.target("metallicity")
    assert np.isfinite(table.to_numpy()).all()
    correlation = table.corrwith(survey.catalog["oh_p50"], method="spearman")
    assert correlation["gr_total"] > 0.5 and correlation["ri_total"] > 0.5
    assert correlation["ellipticity"] < -0.2 and correlation["isophote_25"] > 0.3
    predicted = cross_validated_baselines(survey, features=table)
    scores = {name: rmse(predicted[name], y) for name in predicted}
    assert list(scores) == ["mean", "ridge", "random_forest_image", "gaussian_process"]
    assert "modelMag_g" in predicted.attrs["missing"]["random_forest"]
    assert 0.195 < scores["mean"] < 0.205 and scores["ridge"] < 0.115
    assert scores["random_forest_image"] < 0.108 and scores["gaussian_process"] < 0.098
