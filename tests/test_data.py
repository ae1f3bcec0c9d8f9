"Splits, Surveys, readers and loaders: what does not read well in their chapters"
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord, search_around_sky
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from galaxy_cnn.files import InputError
from galaxy_cnn.images import crop_pad, read_image, read_images, try_read_images
from galaxy_cnn.loaders import (
    _gather_crops,
    center_crop_or_pad,
    crop_each,
    default_batch_size,
    dihedral,
    galaxy_block,
    image_statistics,
    in_memory_dls,
    load_cutouts,
    loader_table,
    make_dls,
    pad_size,
    random_crops,
)
from galaxy_cnn.splits import (
    BUFFER,
    BUFFER_ARCSEC,
    SPLITS,
    assign_folds,
    assign_split,
    near_edge,
    ring_around,
    sky_cell,
    sky_vectors,
    split_counts,
    split_for_fold,
    straddling_pairs,
)
from galaxy_cnn.survey import PackedCutouts, Survey, image_sources, is_fresh, pack, read_survey, write_survey


def draw_sky(n, seed, ra=(0, 360), sin_dec=(-1, 1)):
    "Positions with a companion within 45 arcsec of every other galaxy"
    rng = np.random.default_rng(seed)
    v = sky_vectors(rng.uniform(*ra, n), np.degrees(np.arcsin(rng.uniform(*sin_dec, n))))
    v[1::2] = ring_around(v[::2], 1.0)[np.arange(n // 2), rng.integers(0, 32, n // 2)] - v[::2]  # 1 arcsec long
    v[1::2] = v[::2] + v[1::2] * rng.uniform(1, 45, n // 2)[:, None]
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    return pd.DataFrame({
        "objID": rng.choice(2**62, n, replace=False),
        "ra": np.degrees(np.arctan2(v[:, 1], v[:, 0])) % 360,
        "dec": np.degrees(np.arcsin(v[:, 2])),
    })


def neighbors(catalog):
    "Rows of both galaxies of each pair that is closer than the buffer, found by astropy"
    place = SkyCoord(catalog["ra"].to_numpy() * u.deg, catalog["dec"].to_numpy() * u.deg)
    return search_around_sky(place, place, BUFFER_ARCSEC * u.arcsec)[:2]


def any_straddles(split, one, other):
    "Whether some pair of galaxies is in two splits that count"
    counts = np.isin(split, SPLITS)
    return ((split[one] != split[other]) & counts[one] & counts[other]).any()


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(4, 200).map(lambda n: 2 * n),
    seed=st.integers(-(2**63), 2**63 - 1),
    by=st.sampled_from(["sky", "random"]),
    draw=st.integers(0, 99),
)
def test_a_split_depends_on_the_galaxy_and_the_seed_only(n, seed, by, draw):
    sky = draw_sky(n, draw)
    whole = assign_split(sky, seed, by)
    folds = assign_folds(sky, 5, seed, by)
    rng = np.random.default_rng(draw)
    some = rng.permutation(n)[:rng.integers(1, n + 1)]
    assert (assign_split(sky.iloc[some], seed, by) == whole[some]).all()
    assert (assign_folds(sky.iloc[some], 5, seed, by) == folds[some]).all()
    more = pd.concat([draw_sky(20, draw + 100), sky], ignore_index=True)
    assert (assign_split(more, seed, by)[20:] == whole).all()
    assert sum(split_counts(whole).values()) == n


PLACES = {
    "sky": dict(),
    "north pole": dict(sin_dec=(0.99999, 1)),
    "south pole": dict(sin_dec=(-1, -0.99999)),
    "ra 0": dict(ra=(-0.05, 0.05), sin_dec=(-0.4, 0.9)),
}


@pytest.mark.parametrize("where", PLACES)
def test_no_pair_straddles(where):
    sky = draw_sky(20_000, 3, **PLACES[where])
    one, other = neighbors(sky)
    assert (one < other).sum() > 5000
    splits = [assign_split(sky, seed, fractions=f) for seed in range(3) for f in ((0.6, 0.2, 0.2), (0.2, 0.4, 0.4))]
    for split in splits + [split_for_fold(sky, fold) for fold in range(5)]:
        assert not any_straddles(split, one, other)
        assert straddling_pairs(sky, split) == 0


def test_pairs_are_really_taken_from_the_edge():
    sky = draw_sky(100_000, 3)
    unbuffered = np.where(pd.Series(sky_cell(sky_vectors(sky["ra"], sky["dec"]))) % 2 == 0, "train", "test")
    assert straddling_pairs(sky, unbuffered) > 20  # without the buffer there would be some
    near = near_edge(sky_vectors(sky["ra"], sky["dec"]))
    assert straddling_pairs(sky, np.where(near & (unbuffered == "test"), BUFFER, unbuffered)) == 0


@pytest.mark.parametrize("arcsec", [5.0, 30.0, 300.0])
def test_near_edge_against_dense_sampling(arcsec):
    rng = np.random.default_rng(0)
    v = sky_vectors(rng.uniform(0, 360, 2000), np.degrees(np.arcsin(rng.uniform(-1, 1, 2000))))
    inside = np.zeros(2000, bool)
    for share in np.linspace(0.05, 0.98, 12):
        around = sky_cell(ring_around(v, arcsec * share * np.cos(np.pi / 256), 256))
        inside |= (around != sky_cell(v)[:, None]).any(1)
    assert inside.any() and not (inside & ~near_edge(v, arcsec)).any()


def test_mock_sky_is_split_without_leak(mock_survey):
    from galaxy_cnn.mock_catalog import draw_catalog
    catalog = draw_catalog(20_000, 0)
    split = assign_split(catalog)
    shares = {k: v / len(catalog) for k, v in split_counts(split).items()}
    assert straddling_pairs(catalog, split) == 0 < straddling_pairs(catalog, assign_split(catalog, by="random"))
    assert 0.55 < shares["train"] < 0.65 and shares[BUFFER] < 0.015
    assert 0.15 < shares["valid"] < 0.25 and 0.15 < shares["test"] < 0.25
    assert set(assign_split(mock_survey.catalog)) >= set(SPLITS)


def test_a_large_catalog_is_split_in_a_second():
    n, rng = 142_186, np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    catalog = pd.DataFrame({"objID": np.arange(n), "ra": ra, "dec": dec})
    for by in ("sky", "random"):
        start = time.process_time()
        assign_split(catalog, by=by)
        assert time.process_time() - start < 3  # 0.15 s on an idle core


def test_pinned_splits():
    "The same galaxies fall into the same splits in every version of this package"
    i = np.arange(12)
    dec = (15.0 * i - 83 + 90) % 180 - 90
    catalog = pd.DataFrame({"objID": 1237648704043942146 + i, "ra": 30.0 * i + 1, "dec": dec})
    # second letters: t-r-ain, v-a-lid, t-e-st
    assert "".join(s[1] for s in assign_split(catalog, by="random")) == "arraerraarrr"
    assert "".join(s[1] for s in assign_split(catalog, by="sky")) == "areerrrrrrrr"
    assert assign_folds(catalog, by="sky").tolist() == [3, 0, 4, 4, 1, 2, 2, 1, 2, 0, 1, 1]


@pytest.mark.parametrize("call, words", [
    (lambda c: assign_split(c, by="plate"), "'auto', 'sky' or 'random'"),
    (lambda c: assign_split(c.drop(columns="ra"), by="sky"), "ra and dec"),
    (lambda c: assign_split(c.assign(dec=c["dec"].where(c.index != 3))), "has no position"),
    (lambda c: assign_split(c.assign(ra=-9999.0)), "has no position"),
    (lambda c: assign_split(c, fractions=(0.5, 0.2, 0.2)), "add up to 1"),
    (lambda c: assign_split(c, fractions=(1.2, -0.1, -0.1)), "add up to 1"),
    (lambda c: assign_folds(c, k=1), "at least 2 folds"),
    (lambda c: split_for_fold(c, 5, k=5), "numbered from 0 to 4"),
])
def test_bad_splits(call, words):
    with pytest.raises(InputError, match=words): call(draw_sky(10, 0))


@pytest.mark.parametrize("width", [96, 111, 112, 120, 121, 128, 144, 200])
def test_validation_crops_as_crop_pad_does(tmp_path, width):
    image = np.random.default_rng(width).integers(0, 255, (width, width, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for i in range(4): fits.writeto(tmp_path / f"images/{i}.fits", image.transpose(2, 0, 1))
    survey = Survey(tmp_path, pd.DataFrame({"objID": range(4), "oh_p50": 9.0}))
    table = loader_table(survey, ["train", "train", "valid", "valid"])
    dls = galaxy_block(["metallicity"], ([0.0] * 3, [1.0] * 3)).dataloaders(table, bs=2, device="cpu")
    seen = np.rint(np.asarray(dls.valid.one_batch()[0][0]).transpose(1, 2, 0) * 255).astype(np.uint8)
    assert (seen == crop_pad(image, 112)).all()


def test_training_transforms_are_the_tutorials(mock_survey):
    "Flips, quarter turns, shifts by up to 16 px, rotation; brightness and scale stay as they are"
    assert pad_size(112) == 144
    dls = make_dls(mock_survey, assign_split(mock_survey.catalog), device="cpu")
    names = [type(t).__name__ for t in (*dls.train.after_item.fs, *dls.train.after_batch.fs)]
    assert names[:2] == ["CropPad", "RandomCrop"] and names[-1] == "Normalize"
    affine = [f.func.__name__ for t in dls.train.after_batch.fs for f in getattr(t, "aff_fs", [])]
    assert affine == ["dihedral_mat", "rotate_mat"]
    assert not any(getattr(t, "coord_fs", []) for t in dls.train.after_batch.fs)
    assert "LightingTfm" not in names and "WarpTfm" not in names


def test_statistics_are_those_given(mock_survey):
    split = assign_split(mock_survey.catalog)
    stats = image_statistics(np.array(mock_survey.image_files)[split == "train"])
    random.seed(5)
    torch.manual_seed(5)
    dls = make_dls(mock_survey, split, device="cpu")
    assert dls.stats == stats
    normalize = dls.train.after_batch.fs[-1]
    assert np.allclose(normalize.mean.ravel(), stats[0]) and np.allclose(normalize.std.ravel(), stats[1])
    assert dls.train.after_batch.fs[-1].mean.dtype == torch.float32


def test_ids_survive_and_targets_belong_to_their_image(mock_survey):
    "fastai's ColReader turns a row of numbers into floats: 399 of 400 paths were wrong"
    split = assign_split(mock_survey.catalog)
    dls = make_dls(mock_survey, split, targets=("metallicity", "log_mass", "log_sfr"), device="cpu")
    for k in (0, len(dls.valid_ds) - 1):
        row = np.flatnonzero(split == "valid")[k]
        image, y = dls.valid_ds[k]
        assert (np.asarray(image) == read_image(mock_survey.image_path(mock_survey.catalog["objID"][row]))).all()
        assert np.allclose(y, [mock_survey.target(t)[row] for t in ("metallicity", "log_mass", "log_sfr")], atol=1e-6)


def test_every_epoch_sees_other_crops_and_reseeding_brings_them_back(mock_survey):
    split = assign_split(mock_survey.catalog)
    dls = make_dls(mock_survey, split, device="cpu")
    def epoch(seed):
        dls.train.rng = random.Random(seed)
        for set_seed in (random.seed, torch.manual_seed, np.random.seed): set_seed(seed)
        return torch.cat([torch.as_tensor(x) for x, _ in dls.train])
    assert torch.equal(epoch(1), epoch(1)) and not torch.equal(epoch(1), epoch(2))


@pytest.mark.parametrize("given, words", [
    (dict(bs=1000), "leaves no step"),
    (dict(bs=0), "leaves no step"),
    (dict(targets=("mass",)), "no column 'mass'"),
])
def test_bad_loaders(mock_survey, given, words):
    with pytest.raises(InputError, match=words): make_dls(mock_survey, assign_split(mock_survey.catalog), **given)


@given(st.integers(16, 200_000), st.integers(2, 512))
def test_an_epoch_has_eight_steps(n, bs):
    assert n // default_batch_size(n, bs) >= 8 and 2 <= default_batch_size(n, bs) <= bs


FAULTS = {
    "empty.jpg": (b"", "zero bytes"),
    "text.jpg": (b"<html>503</html>", "not a JPEG"),
    "text.fits": (b"<html>503</html>", "cannot be read as a cutout"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_unreadable_files_are_named(tmp_path, mock_survey, name):
    content, words = FAULTS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as e: read_image(tmp_path / name)
    assert name in str(e.value)
    files = [*mock_survey.image_files[:3], tmp_path / name, tmp_path / "missing.jpg", mock_survey.image_files[3]]
    images, ok, messages = try_read_images(files)
    assert ok.tolist() == [True, True, True, False, False, True]
    assert (images[5] == read_image(files[5])).all() and images[3].max() == 0
    assert name in messages[3] and "missing.jpg does not exist" in messages[4] and messages[0] == ""
    with pytest.raises(InputError, match=rf"{name}.*\(2 of 6 images\)"): read_images(files)


@pytest.mark.parametrize("planes, words", [
    (np.zeros((3, 8)), "3 x H x W"),
    (np.zeros((4, 8, 8)), "3 x H x W"),
    (np.full((3, 8, 8), np.nan), "from 0 to 1"),
    (np.full((3, 8, 8), -0.5), "from 0 to 1"),
    (np.full((3, 8, 8), 300, np.int16), "8-bit pixels"),
])
def test_fits_that_are_no_cutouts(tmp_path, planes, words):
    fits.writeto(tmp_path / "a.fits", planes)
    with pytest.raises(InputError, match=words): read_image(tmp_path / "a.fits")


def test_fits_in_an_extension_and_compressed(tmp_path):
    pixels = np.arange(192, dtype=np.uint8).reshape(3, 8, 8)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(pixels)]).writeto(tmp_path / "a.fits.gz")
    assert (read_image(tmp_path / "a.fits.gz") == pixels.transpose(1, 2, 0)).all()
    assert (read_images([tmp_path / "a.fits.gz"]) == pixels.transpose(1, 2, 0)).all()
    (tmp_path / "b.fits.gz").write_bytes((tmp_path / "a.fits.gz").read_bytes()[:-40])
    (tmp_path / "c.fits.gz").write_bytes((tmp_path / "a.fits.gz").read_bytes()[:30] + bytes(100))
    for name in ("b.fits.gz", "c.fits.gz"):
        with pytest.raises(InputError, match=f"{name} cannot be read as a cutout: damaged FITS file"):
            read_image(tmp_path / name)


def test_mixed_sizes(tmp_path):
    for width in (64, 80): Image.new("RGB", (width, width)).save(tmp_path / f"{width}.jpg")
    files = [tmp_path / "64.jpg", tmp_path / "80.jpg"]
    with pytest.raises(InputError, match="80.jpg is 80x80 px, the images before it 64x64"): read_images(files)
    assert read_images(files, 72).shape == (2, 72, 72, 3)
    assert len(try_read_images([])[0]) == 0
    assert try_read_images([tmp_path / "none.jpg"])[1].tolist() == [False]


def test_real_spirals_do_not_straddle(real):
    "2,000 real positions: how many are left out, and that no pair remains"
    survey = read_survey(real / "sdss_spirals")
    pairs = neighbors(survey.catalog)
    for seed in range(5):
        split = assign_split(survey.catalog, seed)
        assert not any_straddles(split, *pairs) and straddling_pairs(survey.catalog, split) == 0
        shares = np.array(list(split_counts(split).values())) / len(survey)
        assert np.abs(shares - [0.6, 0.2, 0.2, 0.007]).max() < 0.06
    folds = assign_folds(survey.catalog)
    assert set(folds) == {-1, 0, 1, 2, 3, 4} and (folds == -1).mean() < 0.03


def test_real_sample_loads(real):
    survey = read_survey(real / "sdss_sample")
    split = assign_split(survey.catalog)
    dls = make_dls(survey, split, device="cpu")
    assert split_counts(split)[BUFFER] == 0 and len(dls.train) >= 8
    assert len(dls.train_ds) + len(dls.valid_ds) == np.isin(split, ["train", "valid"]).sum()
    x, y = dls.one_batch()
    assert 7.5 < float(y.min()) and float(y.max()) < 9.5 and abs(float(x.mean())) < 0.5


# The packed Survey

@pytest.fixture
def copied(mock_survey, tmp_path):
    "A Survey that a test may change"
    shutil.copytree(mock_survey.path, tmp_path / "sky")
    return read_survey(tmp_path / "sky")


def test_a_packed_survey_is_read_by_pandas_and_pyarrow(copied):
    file = pack(copied.path)
    table = pd.read_parquet(file)
    pd.testing.assert_frame_equal(table.drop(columns="image"), copied.catalog)
    assert table["image"].tolist() == [Path(f).read_bytes() for f in copied.image_files]
    assert pq.read_table(file, columns=["objID"]).num_rows == len(copied)


def test_any_part_of_a_survey_gets_its_own_cutouts_from_the_packed_file(copied, monkeypatch):
    monkeypatch.setattr("galaxy_cnn.survey.ROW_GROUP", 50)
    pack(copied.path)
    some = copied.select(np.random.default_rng(0).random(len(copied)) < 0.4)
    packed = image_sources(some)
    assert isinstance(packed, PackedCutouts) and packed[:] == some.image_files
    expected = read_images(some.image_files)
    # what is read must come from the packed file
    for f in copied.image_files: Path(f).write_bytes(b"")
    assert (read_images(packed) == expected).all() and (read_images(packed[10:20]) == expected[10:20]).all()


def changed_image(survey): shutil.copyfile(survey.image_files[3], survey.image_files[5])
def lost_image(survey): Path(survey.image_files[5]).unlink()
def shorter_catalog(survey): write_survey(survey.path, survey.catalog[:-7], {})
def cut_file(survey): os.truncate(survey.path / "packed.parquet", os.path.getsize(survey.path / "packed.parquet") - 1000)
def other_table(survey): survey.catalog.to_parquet(survey.path / "packed.parquet")


@pytest.mark.parametrize("change", [changed_image, lost_image, shorter_catalog, cut_file, other_table])
def test_a_packed_file_that_is_out_of_date_or_damaged_is_made_again(copied, change):
    file = pack(copied.path)
    assert is_fresh(file)
    change(copied)
    assert not is_fresh(file)
    now = read_survey(copied.path)
    images, ok, _ = try_read_images(image_sources(now))
    assert is_fresh(file) and len(images) == len(now)
    assert np.flatnonzero(~np.array(ok)).tolist() == ([5] if change is lost_image else [])
    if change is changed_image: assert (images[5] == images[3]).all()


def test_a_survey_that_cannot_be_written_is_read_file_by_file(copied, monkeypatch):
    pack(copied.path)
    changed_image(copied)
    def refuse(path): raise PermissionError(13, "Permission denied")
    monkeypatch.setattr("galaxy_cnn.survey.pack", refuse)
    assert image_sources(copied) == copied.image_files


def test_fits_cutouts_are_packed_too(mock_survey, tmp_path):
    (tmp_path / "images").mkdir()
    for f in mock_survey.image_files[:20]:
        image = read_image(f)
        fits.writeto(tmp_path / "images" / f"{f.split('/')[-1][:-4]}.fits", image.transpose(2, 0, 1))
    survey = write_survey(tmp_path, mock_survey.catalog[:20], {"size": 128})
    pack(tmp_path)
    pixels, problems = load_cutouts(survey)
    assert not problems and (pixels.movedim(1, 3).numpy() == read_images(mock_survey.image_files[:20])).all()


# Cutouts in memory

def test_problems_of_cutouts_are_listed_in_order_and_the_others_are_read(copied):
    lost_image(copied)
    os.truncate(copied.image_files[9], 700)
    Image.new("RGB", (64, 64)).save(copied.image_files[70])
    pixels, problems = load_cutouts(copied, workers=3)
    ids = copied.catalog["objID"]
    expected = [("missing image", ids[5]), ("unreadable image", ids[9]), ("wrong size", ids[70])]
    assert [(p.kind, p.objID) for p in problems] == expected
    assert not pixels[[5, 9, 70]].any()
    assert (pixels[71].movedim(0, 2).numpy() == read_image(copied.image_files[71])).all()


@pytest.mark.parametrize("size", [64, 111, 112, 127, 128, 129, 144, 145])
def test_the_center_is_that_of_the_arrays(mock_survey, size):
    image = read_image(mock_survey.image_files[0])
    found = center_crop_or_pad(torch.from_numpy(image).movedim(2, 0), size)
    assert (found.movedim(0, 2).numpy() == crop_pad(image, size)).all()


def test_the_eight_symmetries_are_eight_and_a_group():
    square = torch.arange(9).reshape(3, 3)
    def eight(x): return {tuple(dihedral(x, s).flatten().tolist()) for s in range(8)}
    assert len(eight(square)) == 8 and all(eight(dihedral(square, s)) == eight(square) for s in range(8))


@pytest.mark.parametrize("size", [32, 111, 112, 128, 140])
def test_crops_are_the_same_on_both_devices_and_black_outside(size):
    width = pad_size(size)
    generator = torch.Generator().manual_seed(size)
    x = torch.randint(1, 256, (200, 3, 128, 128), dtype=torch.uint8, generator=generator)
    top, left = torch.randint(width - size + 1, (2, 200), generator=generator)
    found = crop_each(x, size, width, top, left)
    places = zip(center_crop_or_pad(x, width), top, left)
    assert torch.equal(found, torch.stack([image[:, t:t + size, l:l + size] for image, t, l in places]))
    symmetry = torch.arange(200) // 25
    drawn = torch.stack([top, left, symmetry])
    turned = torch.stack([dihedral(image, int(s)) for image, s in zip(found, symmetry)])
    assert torch.equal(torch.cat(list(random_crops(x, size, drawn))), turned)
    assert torch.equal(_gather_crops(x, size, drawn), turned)


@pytest.fixture(scope="session")
def resident(mock_survey):
    pixels, _ = load_cutouts(mock_survey)
    return mock_survey, assign_split(mock_survey.catalog, by="random"), pixels


def test_an_epoch_has_each_training_galaxy_once_in_an_order_of_the_seed(resident):
    survey, split, pixels = resident
    targets = ("metallicity", "log_mass")
    def epochs(seed):
        dls = in_memory_dls(survey, split, pixels, targets, bs=10, seed=seed)
        return [torch.cat([y for _, y in dls.train]) for _ in range(2)], dls
    (first, second), dls = epochs(3)
    n = int((split == "train").sum()) // 10 * 10
    assert first.shape == (n, 2) and len({tuple(y.tolist()) for y in first}) == n
    assert not torch.equal(first, second) and torch.equal(first, epochs(3)[0][0]) and not torch.equal(first, epochs(4)[0][0])
    expected = np.stack([survey.target(t)[split == "valid"] for t in targets], 1)
    assert torch.equal(torch.cat([y for _, y in dls.valid]), torch.tensor(expected).float())


def test_every_galaxy_meets_shifts_and_symmetries(resident):
    survey, split, pixels = resident
    dls = in_memory_dls(survey, split, pixels, bs=24, stats=((0.0,) * 3, (1 / 255,) * 3))
    target = float(survey.target("metallicity")[split == "train"][0])
    seen = set()
    for x, y in (batch for _ in range(60) for batch in dls.train):
        seen |= {tuple(view.flatten()[::997].tolist()) for view in x[torch.isclose(y, torch.tensor(target))]}
    assert len(seen) > 40  # of at most 60


def test_fastai_takes_it_for_a_loader(resident, tmp_path):
    from fastai.callback import schedule  # gives a Learner lr_find
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    survey, split, pixels = resident
    dls = in_memory_dls(survey, split, pixels, bs=16)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 1))
    learn = Learner(dls, net, loss_func=lambda pred, y: (pred[:, 0] - y).square().mean(), path=tmp_path)
    learn.remove_cbs(learn.cbs.filter(lambda cb: type(cb).__name__ == "ProgressCallback"))
    assert schedule and learn.lr_find(num_it=20, show_plot=False).valley > 0
    learn.fit(2, 1e-3)
    pred, y = learn.get_preds()
    assert pred.shape == (int((split == "valid").sum()), 1) and np.allclose(y, survey.target("metallicity")[split == "valid"])
    again, _ = learn.get_preds(dl=dls.train.new(shuffle=False, drop_last=False, augment=False))
    assert len(again) == (split == "train").sum()
    empty = dls.new_empty()
    assert isinstance(empty, DataLoaders) and sum(dl.dataset.pixels.numel() for dl in empty.loaders) == 0
    assert len(dls.one_batch()[0]) == 16
