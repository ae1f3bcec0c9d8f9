"""Intervals that hold whatever the residuals, the paper's too; what cannot be calibrated; which images are galaxies"""
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from galaxy_cnn.features import measure_images
from galaxy_cnn.files import InputError, read_json, write_json
from galaxy_cnn.images import read_images
from galaxy_cnn.metrics import conformal_quantile, coverage, coverage_by, sharpness
from galaxy_cnn.ood import (
    FALSE_FLAGS,
    OOD_FEATURES,
    OODDetector,
    fit_whitening,
    ood_features,
    ood_features_of_files,
    raw_statistics,
    reference_distance,
)
from galaxy_cnn.run import CARD_FILE, RUN_FORMAT, read_run
from galaxy_cnn.survey import read_survey
from galaxy_cnn.train import fit_error_model
from galaxy_cnn.uncertainty import INTERVAL_LEVELS, Calibration, fit_calibration, pit, split_sigma, total_sigma

SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy": lambda rng, n: rng.standard_t(2, n),
    "skewed": lambda rng, n: rng.exponential(size=n) - 0.5,
    "two peaks": lambda rng, n: rng.choice([-1, 1], n) + 0.1 * rng.normal(size=n),
    "rounded": lambda rng, n: np.round(rng.normal(size=n), 1),
}
PASSED = [f"pass_{100 * level:.0f}" for level in INTERVAL_LEVELS]  # columns of `coverage_by`


def residuals(n, seed, shape="normal", raw=0.6):
    "True values, predictions and a raw sigma that is `raw` of the true one, which grows towards low values"
    rng = np.random.default_rng(seed)
    pred = 9.1 - rng.gamma(2, 0.1, n)
    sigma = 0.03 + 0.2 * (9.1 - pred)
    return pred + sigma * SHAPES[shape](rng, n), pred, raw * sigma


@pytest.mark.parametrize("with_sigma", [True, False], ids=["raw sigma", "no sigma"])
@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_holds_on_average_whatever_the_shape_and_however_few(shape, with_sigma):
    found = {level: [] for level in INTERVAL_LEVELS}
    for seed in range(20):
        true, pred, sigma = residuals(120 + 4000, seed, shape)
        fit = [true[:120], pred[:120]]
        new = [pred[120:]]
        if with_sigma:
            fit.append(sigma[:120])
            new.append(sigma[120:])
        ends = fit_calibration(*fit).intervals(*new)
        for level, (lo, hi) in ends.items(): found[level].append(coverage(true[120:], lo, hi)["value"])
    for level, shares in found.items():
        mean, error = np.mean(shares), np.sqrt(level * (1 - level) / 122 / 20)
        assert level - 3 * error - 0.005 < mean < level + 3 * error + 0.035, (level, mean)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 400), level=st.sampled_from(INTERVAL_LEVELS), seed=st.integers(0, 1000))
def test_the_conformal_quantile_is_exact_under_exchange(n, level, seed):
    values = np.random.default_rng(seed).permutation(n + 1).astype(float)
    if -(-(n + 1) * round(100 * level) // 100) > n:
        with pytest.raises(InputError, match="too few"): conformal_quantile(values[1:], level)
        return
    below = [values[i] <= conformal_quantile(np.delete(values, i), level) for i in range(n + 1)]
    assert level <= np.mean(below) < level + 1 / (n + 1) + 1e-9


def test_many_galaxies_make_every_bin_honest():
    true, pred, sigma = residuals(10_000, 1, "skewed")
    new = residuals(5000, 2, "skewed")
    ends = fit_calibration(true, pred, sigma).intervals(*new[1:])
    for by in (new[1], new[2]):
        table = coverage_by(by, new[0], ends)
        assert len(table) == 10
        # the calibration's own error is not in the band
        assert table[PASSED].to_numpy().mean() > 0.93, table
    blind = fit_calibration(true, pred).intervals(new[1])
    assert coverage_by(new[1], new[0], blind)["pass_90"].mean() >= 0.9


def test_few_galaxies_with_equal_errors_get_nearly_equal_sigmas():
    rng = np.random.default_rng(0)
    pred = rng.normal(8.9, 0.2, 300)
    sigma = fit_calibration(pred + rng.normal(0, 0.1, 300), pred).apply(rng.normal(8.9, 0.2, 2000))["sigma"]
    assert abs(np.median(sigma) - 0.1) < 0.015 and np.std(np.log(sigma)) < 0.25


def test_units_do_not_matter_and_a_raw_sigma_is_worth_its_ranking_only():
    true, pred, sigma = residuals(1000, 3)
    one = fit_calibration(true, pred, sigma)
    ten = fit_calibration(10 * true, 10 * pred, 10 * sigma)
    pairs = zip(one.intervals(pred, sigma).values(), ten.intervals(10 * pred, 10 * sigma).values())
    for a, b in pairs: np.testing.assert_allclose(10 * np.array(a), b, rtol=1e-9)
    scaled = fit_calibration(true, pred, 7 * sigma).apply(pred, 7 * sigma)
    np.testing.assert_allclose(scaled["sigma"], one.apply(pred, sigma)["sigma"], rtol=1e-9)


def test_as_many_lie_below_an_interval_as_above():
    "Of skewed residuals, whose shortest intervals would leave out hardly any below"
    below, above = np.zeros((2, 10, len(INTERVAL_LEVELS)))
    for seed in range(10):
        true, pred, sigma = residuals(3000 + 4000, seed, "skewed")
        calibration = fit_calibration(true[:3000], pred[:3000], sigma[:3000])
        for i, (lo, hi) in enumerate(calibration.intervals(pred[3000:], sigma[3000:]).values()):
            below[seed, i] = np.mean(true[3000:] < lo)
            above[seed, i] = np.mean(true[3000:] > hi)
    expected = (1 - np.array(INTERVAL_LEVELS)) / 2
    for side in (below, above): np.testing.assert_allclose(side.mean(0), expected, atol=0.006)


def test_intervals_nest_and_sigma_holds_68_percent():
    true, pred, sigma = residuals(2000, 4, "skewed")
    calibration = fit_calibration(true, pred, sigma)
    new = residuals(20_000, 5, "skewed")
    ends = [calibration.interval(*new[1:], level) for level in INTERVAL_LEVELS]
    for (lo, hi), (lower, higher) in zip(ends, ends[1:]): assert (lower <= lo).all() and (hi <= higher).all()
    bars = calibration.apply(*new[1:])
    assert abs(np.mean(np.abs(new[0] - new[1]) <= bars["sigma"]) - 0.68) < 0.03
    np.testing.assert_array_equal(bars["lo90"], ends[1][0])
    assert (bars["sigma"] > 0).all()


def test_a_calibration_is_json_and_comes_back():
    true, pred, sigma = residuals(200, 6)
    calibration = fit_calibration(true, pred, sigma)
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())) | {"target": "metallicity"})
    assert again == calibration and fit_calibration(true, pred, sigma) == calibration
    np.testing.assert_array_equal(again.apply(pred, sigma)["hi90"], calibration.apply(pred, sigma)["hi90"])
    with pytest.raises(InputError, match="lacks n, has_sigma"): Calibration.from_dict({})


def test_what_cannot_be_calibrated_is_refused():
    true, pred, sigma = residuals(60, 7)
    with pytest.raises(InputError, match="24 galaxies are too few"): fit_calibration(true[:24], pred[:24], sigma[:24])
    holed = np.where(np.arange(60) == 3, np.nan, true)
    with pytest.raises(InputError, match="1 of 60 galaxies"): fit_calibration(holed, pred, sigma)
    with pytest.raises(InputError, match="not positive"): fit_calibration(true, pred, np.zeros(60))
    with pytest.raises(InputError, match="one value, prediction and sigma"): fit_calibration(true, pred, sigma[:-1])
    with pytest.raises(InputError, match="made without a raw sigma"): fit_calibration(true, pred).apply(pred, sigma)
    assert fit_calibration(true[:25], pred[:25], sigma[:25]).n == 25


def test_degenerate_residuals_still_give_finite_bars():
    pred = np.full(50, 8.9)
    for true in (pred, pred + np.repeat([0.0, 0.1], 25)):
        bars = fit_calibration(true, pred).apply(np.array([8.0, 8.9, 9.5]))
        assert all(np.isfinite(v).all() for v in bars.values()) and (bars["lo90"] <= bars["hi90"]).all()


def test_missing_predictions_stay_missing():
    true, pred, sigma = residuals(100, 8)
    bars = fit_calibration(true, pred, sigma).apply(np.array([np.nan, 8.9]), np.array([0.1, np.nan]))
    assert all(np.isnan(v).all() for v in bars.values())


def test_the_pit_is_uniform_and_sees_a_bias():
    true, pred, sigma = residuals(8000, 9, "heavy")
    calibration = fit_calibration(true, pred, sigma)
    new = residuals(8000, 10, "heavy")
    values = pit(calibration, *new)
    counts = np.histogram(values, 10, (0, 1))[0]
    assert np.abs(counts - 800).max() < 4 * np.sqrt(2 * 800)
    assert pit(calibration, new[0] + 0.05, *new[1:]).mean() > values.mean() + 0.1


def test_components_add_up():
    rng = np.random.default_rng(0)
    data, model, sigma = rng.uniform(0.01, 0.1, (3, 50))
    np.testing.assert_allclose(total_sigma(*split_sigma(sigma, data, model)), sigma)
    np.testing.assert_allclose(split_sigma(sigma, data)[0], sigma)


def test_an_older_run_keeps_its_error_bars_and_has_no_parts(tmp_path):
    "The golden Run has format 2 and two Gaussian processes without their noise"
    golden = Path(__file__).parent / "golden"
    shutil.copytree(golden / "run", tmp_path / "run")
    survey = read_survey(golden / "sky")
    run = read_run(tmp_path / "run")
    assert run.card["format"] == 2 < RUN_FORMAT
    images = read_images(survey.image_files[:5])
    old = run.predict(images)
    run.card["format"] = 3
    new = run.predict(images)
    np.testing.assert_allclose(new.mean, old.mean, atol=1e-9)
    np.testing.assert_allclose(new.sigma, old.sigma, atol=1e-9)  # two networks are no ensemble: the same sigma
    assert np.isnan(old.epistemic).all() and (new.epistemic > 0).all()
    errors = fit_error_model(read_run(tmp_path / "run"), survey)
    table = old.to_table(run.targets, errors)
    assert table["metallicity_sigma"].notna().all() and table["metallicity_sigma_epistemic"].isna().all()
    table = new.to_table(run.targets, errors)
    parts = np.hypot(table["metallicity_sigma_aleatoric"], table["metallicity_sigma_epistemic"])
    np.testing.assert_allclose(parts, table["metallicity_sigma"], rtol=1e-9)


def test_a_later_format_is_refused(tmp_path):
    shutil.copytree(Path(__file__).parent / "golden" / "run", tmp_path / "run")
    card = read_json(tmp_path / "run" / CARD_FILE)
    write_json(tmp_path / "run" / CARD_FILE, card | {"format": RUN_FORMAT + 1})
    with pytest.raises(InputError, match=f"has format {RUN_FORMAT + 1}.*reads 2 and 3: update it"):
        read_run(tmp_path / "run")


def test_the_highest_predictions_are_told_from_the_highest_tenth():
    "Predictions with noise of their own are too high at the top; weights in rank could not see it"
    rng = np.random.default_rng(0)
    truth = rng.normal(8.9, 0.15, 40_000)
    pred = truth + rng.standard_t(3, 40_000) * 0.03
    lo, hi = fit_calibration(truth[:20_000], pred[:20_000]).interval(pred[20_000:])
    top = pred[20_000:] > np.quantile(pred, 0.99)
    assert coverage(truth[20_000:][top], lo[top], hi[top])["value"] > 0.85


# ---- the paper's residuals

def test_the_papers_residuals_are_covered(real):
    table = pd.read_csv(real / "facts" / "wu_boada_2019_test_predictions.csv")
    true, pred = table["oh_p50"].to_numpy(), table["pred_128"].to_numpy()
    off, passed = [], []
    for seed in range(6):
        fit, test = np.split(np.random.default_rng(seed).permutation(len(true)), 2)
        ends = fit_calibration(true[fit], pred[fit]).intervals(pred[test])
        off.append([coverage(true[test], *ends[level])["value"] - level for level in INTERVAL_LEVELS])
        table = coverage_by(pred[test], true[test], ends, n_calibrate=len(fit))
        passed.append(table[PASSED].to_numpy().mean())
    assert np.abs(np.mean(off, 0)).max() < 0.01 and np.abs(off).max() < 0.025
    assert np.mean(passed) > 0.98
    widths = {level: sharpness(true[test], pred[test], *ends[level], level) for level in INTERVAL_LEVELS}
    assert widths[0.90]["width_ratio"] < 0.97 and widths[0.95]["width_ratio"] < 0.95
    assert all(w["score_ratio"] < 0.98 for w in widths.values())


# ---- the detector

@pytest.fixture(scope="session")
def galaxies(mock_survey): return read_images(mock_survey.image_files)


@pytest.fixture(scope="session")
def looks(galaxies): return ood_features(galaxies)


def strangers():
    "One of each kind"
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128] - 63.5
    light = {
        "sky": 0 * x,
        "star": 3000 * (1 + np.hypot(x, y) ** 2 / 15) ** -3,
        "trail": 500 / (1 + np.abs(y - x / 2) ** 4),
        "checks": 200 * ((x // 16 + y // 16) % 2),
    }
    noisy = {name: v[..., None] + rng.normal(5, 4, (128, 128, 3)) for name, v in light.items()}
    plain = {
        "noise": rng.integers(0, 256, (128, 128, 3)),
        "black": np.zeros((128, 128, 3)),
        "white": np.full((128, 128, 3), 255),
    }
    return {name: np.clip(v, 0, 255).astype(np.uint8) for name, v in (noisy | plain).items()}


def test_what_is_no_galaxy_is_flagged_and_galaxies_are_not(galaxies, looks):
    detector = OODDetector.fit(looks[:160])
    odd = strangers()
    assert dict(zip(odd, detector.flag(np.stack(list(odd.values()))))) == dict.fromkeys(odd, True)
    assert detector.flag(galaxies[160:]).sum() <= 7  # expected 1.6 of 80, and the threshold's own error
    assert detector.flag(looks[:160]).mean() <= FALSE_FLAGS


def test_turned_and_shrunk_galaxies_are_still_galaxies(galaxies, looks):
    detector = OODDetector.fit(looks)
    usual = detector.score(looks[:40])
    for turned in (galaxies[:40, ::-1], np.rot90(galaxies[:40], 1, (1, 2))):
        np.testing.assert_allclose(np.median(detector.score(turned) / usual), 1, atol=0.5)
    assert detector.flag(np.rot90(galaxies[:40], 1, (1, 2))).mean() < 0.15


def test_a_detector_is_plain_arrays_and_comes_back(looks, tmp_path):
    detector = OODDetector.fit(looks, seed=3)
    np.savez(tmp_path / "detector.npz", **detector.arrays(), other=np.zeros(3))
    with np.load(tmp_path / "detector.npz", allow_pickle=False) as arrays: again = OODDetector.from_arrays(dict(arrays))
    np.testing.assert_array_equal(again.score(looks), detector.score(looks))
    np.testing.assert_array_equal(OODDetector.fit(looks, seed=3).references, detector.references)
    with pytest.raises(InputError, match="lacks names, median"): OODDetector.from_arrays({})


def test_only_a_part_of_many_galaxies_is_kept(looks):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.3, (30 * len(looks), len(OOD_FEATURES)))
    many = pd.concat([looks] * 30, ignore_index=True) + noise * looks.std().to_numpy()
    detector = OODDetector.fit(many)
    assert len(detector.references) == 3000 and sum(a.nbytes for a in detector.arrays().values()) < 2**20


@pytest.mark.parametrize("size", [64, 101, 128])
def test_raw_statistics_agree_with_masks(size):
    "Each ring a mask, in float64"
    rng = np.random.default_rng(size)
    x, y = np.meshgrid(*2 * [(np.arange(size) - (size - 1) / 2) * 128 / size])
    radius = np.hypot(x, y)
    galaxy = 700 * np.exp(-np.hypot(x, 2 * y) / 9)[..., None] * (1, 0.8, 0.7)
    image = np.clip(galaxy + rng.normal(9, 4, (size, size, 3)), 0, 255).astype("uint8")
    white = image.mean(2) - np.median(image.mean(2)[radius > 56])
    light = np.clip(white, 0, None)
    total = light.sum() + 1000
    side, middle = size // 16, np.arange(-60, 64, 8)
    far = [(i, j) for i in range(16) for j in range(16) if np.hypot(middle[i], middle[j]) > 40]
    blocks = [white[i * side:(i + 1) * side, j * side:(j + 1) * side].mean() for i, j in far]
    expected = {
        "saturated": np.log((image >= 245).all(2).mean() + 1e-3),
        "outside": np.log(light[radius > 40].sum() / total + 0.01),
        "core": np.log(light[radius < 4].sum() / total + 1e-3),
        "outside_block": np.log(max(blocks)),
    }
    for a, b in ((2, 4), (12, 15), (26, 32)):
        ring = white[(radius >= a) & (radius < b)]
        expected[f"uneven_{a}-{b}"] = np.log(ring.std() / (abs(ring.mean()) + 2) + 0.02)
    assert (image >= 245).all(2).any()
    found = raw_statistics(image[None]).iloc[0]
    for name, value in expected.items():
        assert np.isclose(found[name], value, rtol=1e-4, atol=1e-4), (name, found[name], value)


def test_looks_do_not_depend_on_threads_nor_on_who_measured(galaxies, looks):
    np.testing.assert_allclose(ood_features(galaxies, workers=3), looks, atol=1e-3)
    np.testing.assert_allclose(ood_features(galaxies, measure_images(galaxies)), looks, atol=1e-3)


def test_the_distance_is_that_to_the_nearest():
    rng = np.random.default_rng(0)
    median, width, turn, known = fit_whitening(rng.normal(3, 2, (400, 6)))
    values = rng.normal(3, 3, (250, 6))
    expected = np.sort(cdist((values - median) / width @ turn, known), axis=1)[:, :5].mean(1)
    values[7, 2], values[9, 0] = np.nan, np.inf
    found = reference_distance(values, median, width, turn, known.astype("float32"))
    assert np.isinf(found[[7, 9]]).all() and np.isfinite(np.delete(found, [7, 9])).all()
    np.testing.assert_allclose(np.delete(found, [7, 9]), np.delete(expected, [7, 9]), rtol=1e-5)
    # a galaxy is at no distance from itself
    itself = np.repeat(known[:1], 5, 0)
    assert np.isclose(reference_distance(known[:1], 0, 1, np.eye(6), itself)[0], 0, atol=1e-2)


def test_images_of_any_shape_have_looks_or_are_flagged(looks, galaxies):
    detector = OODDetector.fit(looks)
    for shape in ((64, 64), (120, 120), (128, 300), (301, 200)):
        assert np.isfinite(ood_features(np.full((1, *shape, 3), 90, np.uint8)).to_numpy()).all()
    assert detector.flag(galaxies[:2, :20, :30]).all() and detector.flag(galaxies[:0]).shape == (0,)
    with pytest.raises(InputError, match="uint8"): detector.score(galaxies[:2] / 255)
    with pytest.raises(InputError, match="99 galaxies"): OODDetector.fit(looks[:99])
    with pytest.raises(InputError, match="too small to look at"):
        OODDetector.fit(pd.concat([looks, looks[:1] * np.nan]))


def test_the_real_galaxies_are_flagged_as_often_as_promised(real):
    table = ood_features_of_files(read_survey(real / "sdss_sample").image_files)
    fold = np.random.default_rng(0).permutation(400) % 5
    flagged = np.concatenate([OODDetector.fit(table[fold != k]).flag(table[fold == k]) for k in range(5)])
    assert abs(flagged.mean() - FALSE_FLAGS) < 3 * np.sqrt(FALSE_FLAGS * (1 - FALSE_FLAGS) / 400)
    assert OODDetector.fit(table).flag(np.stack(list(strangers().values()))).all()
