"""Files as they really come: catalogs by many programs, ids that were rounded, codes for missing values, pictures of every kind."""
import gzip
import io
import os
import string

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from fastcore.test import test_fail as raises
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from galaxy_cnn.catalogs import catalog_files, check_ids, content_hash, read_catalog
from galaxy_cnn.evaluate import prediction_table
from galaxy_cnn.files import Incomplete, InputError
from galaxy_cnn.images import PackedCutout, decode, read_image, try_read_image
from galaxy_cnn.loaders import picture_hashes
from galaxy_cnn.predict import find_images, predict
from galaxy_cnn.splits import Split, same_galaxies
from galaxy_cnn.survey import Survey, describe, image_sources, pack, read_survey, try_image, validate
from galaxy_cnn.train import _load_labeled, train

IDS = 1237648704043942146 + np.arange(40) * 65537 * 3
OH = np.random.default_rng(5).normal(8.9, 0.2, 40).round(4)


def picture(seed=0, size=128):
    "uint8 [size, size, 3]: a spot on noise"
    y, x = np.mgrid[:size, :size] - size / 2
    spot = 180 * np.exp(-(x**2 + y**2) / 300)[..., None]
    return np.clip(spot + np.random.default_rng(seed).normal(20, 4, (size, size, 3)), 0, 255).astype(np.uint8)


def jpeg(seed=0, size=128):
    buffer = io.BytesIO()
    Image.fromarray(picture(seed, size)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def survey(folder, n=20, **columns):
    "A Survey of n spots"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(n): (folder / "images" / f"{IDS[i]}.jpg").write_bytes(jpeg(i))
    pd.DataFrame({"objID": IDS[:n], "oh_p50": OH[:n], **columns}).to_csv(folder / "catalog.csv", index=False)
    return folder


def read(folder): return read_catalog(folder)[0]


def write(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "catalog.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


# --- ids

def spreadsheet(i): return i // 10 ** (len(str(i)) - 15) * 10 ** (len(str(i)) - 15)


def javascript(i):
    digits, exponent = repr(float(i)).split("e+")
    digits = digits.replace(".", "")
    return int(digits.ljust(int(exponent) + 1, "0"))


WAYS = {"float": lambda i: int(float(i)), "spreadsheet": spreadsheet, "javascript": javascript}


@pytest.mark.parametrize("n", [2, 3, 5, 40])
@pytest.mark.parametrize("first", [1237648704043942146, 587722983912112647, 299489677444933632 + 77])
@pytest.mark.parametrize("way", WAYS)
def test_rounded_ids_are_refused_whatever_rounded_them(way, first, n, tmp_path):
    honest = [first + k * 65537 * 7 for k in range(n)]
    rounded = [WAYS[way](i) for i in honest]
    if n == 2 and len(str(first)) == 18 and way != "spreadsheet": pytest.skip("2 of 2 in 64 or 128: chance enough")
    raises(lambda: check_ids(rounded, tmp_path / "catalog.csv"), contains="row 1", exc=InputError)
    check_ids(honest, tmp_path / "catalog.csv")


def test_some_rounded_rows_are_refused_with_their_count(tmp_path):
    ids = [int(float(i)) if k % 4 == 1 else int(i) for k, i in enumerate(IDS)]
    raises(lambda: check_ids(ids, tmp_path / "catalog.csv"), contains="row 2: objID", exc=InputError)
    raises(lambda: check_ids(ids, tmp_path / "catalog.csv"), contains="10 of 40", exc=InputError)


def test_images_prove_ids_right_or_wrong(tmp_path):
    folder = survey(tmp_path / "sky", 20)
    text = (folder / "catalog.csv").read_text()
    write(folder, text.replace(str(IDS[3]), str(int(float(IDS[3])))))
    raises(lambda: read(folder), contains="row 4", exc=InputError)
    rounded = [int(float(i)) for i in IDS[:20]]
    for i, r in zip(IDS, rounded): os.replace(folder / "images" / f"{i}.jpg", folder / "images" / f"{r}.jpg")
    write(folder, "objID,oh_p50\n" + "".join(f"{r},8.9\n" for r in rounded))
    assert read(folder)["objID"].tolist() == rounded


@pytest.mark.parametrize("text, word", [
    ("1.237648704043942E+18", "float"), ("1237648704043942146.0", "float"), ("'1237648704043942146", "quotes"),
    ('"=""1237648704043942146"""', "quotes"), ("", "missing"), ("91237648704043942146", "does not fit"), ("NaN", "missing"),
])
def test_ids_that_are_no_integers_are_refused_with_row_and_count(text, word, tmp_path):
    folder = write(tmp_path / "sky", f"objID,oh_p50\n{IDS[0]},8.9\n{text},8.8\n{IDS[1]},9.0\n")
    raises(lambda: read(folder), contains="row 2", exc=InputError)
    raises(lambda: read(folder), contains=word, exc=InputError)
    raises(lambda: read(folder), contains="1 of 3", exc=InputError)


@pytest.mark.parametrize("ids", [
    range(1, 2001), range(0, 256_000, 256), (4295806720 + 128 * np.arange(1, 300)).tolist(),  # small; multiples; Gaia
    (4035686934350720 + 128 * (np.arange(300) * 2**37 + 3 * np.arange(300))).tolist(), [2**60], [2**60, 2**60 + 1],
])
def test_honest_ids_raise_no_alarm(ids, tmp_path): check_ids(list(ids), tmp_path / "catalog.csv")


def test_random_sdss_ids_raise_no_alarm(tmp_path):
    rng = np.random.default_rng(0)
    for n in (1, 2, 30, 400, 3000):
        for _ in range(30): check_ids(np.unique(2**60 + rng.integers(0, 2**57, n)), tmp_path / "catalog.csv")


def test_real_catalogs_are_accepted(real):
    assert [len(read_survey(real / name)) for name in ("sdss_sample", "sdss_spirals")] == [400, 2000]
    assert validate(read_survey(real / "sdss_sample")) == []


def test_a_mock_survey_is_accepted(mock_survey):
    assert validate(read_survey(mock_survey.path), ("metallicity", "log_mass", "log_sfr")) == []
    assert same_galaxies(mock_survey.catalog, picture_hashes(mock_survey)) == []


# --- labels

@pytest.mark.parametrize("target, column", [("metallicity", "oh_p50"), ("log_mass", "lgm_tot_p50"), ("Zgas", "Zgas")])
@pytest.mark.parametrize("code", [-99.9, -99, -1, 99, 0, 1e20, -9.99, 999])
def test_codes_for_missing_labels_are_refused_by_name(target, column, code, tmp_path):
    values = np.r_[OH[:18] + 1.5 * (column == "lgm_tot_p50"), code, code]
    folder = survey(tmp_path / "sky", 20, **{column: values})
    problems = validate(read_survey(folder), (target,), images=False)
    assert {p.objID for p in problems} == set(IDS[18:20].tolist())
    assert f"2 x impossible target: objID {IDS[18]} has {column} = {code:g}" in describe(problems)
    raises(lambda: _load_labeled(read_survey(folder), (target,)), contains="--drop-bad", exc=InputError)
    assert len(_load_labeled(read_survey(folder), (target,), drop_bad=True)[0]) == 18


def test_labels_that_pile_up_at_an_edge_are_refused(tmp_path):
    folder = survey(tmp_path / "sky", 20)
    table = pd.DataFrame({"objID": IDS, "oh_p50": np.minimum(OH, np.sort(OH)[-8])})
    problems = validate(Survey(folder, table), images=False)
    assert len(problems) == 8 and "as 8 galaxies have" in problems[0].message


def test_honest_labels_are_no_problem(tmp_path):
    rng = np.random.default_rng(1)
    for values in (rng.integers(0, 2, 40), rng.poisson(1, 40), OH.round(1), np.r_[np.zeros(20), rng.uniform(0, 1, 20)]):
        table = pd.DataFrame({"objID": IDS, "thing": values.astype(float)})
        assert validate(Survey(tmp_path, table), ("thing",), images=False) == []


# --- formats and names

WANT = pd.DataFrame({"objID": IDS[:4], "oh_p50": np.array([8.7, 8.8, np.nan, 9.0], "float32"), "ra": [10.5, 275.25, 3.0, 4.0],
                     "dec": [1.0, -1.5, 2.0, 3.0]})
ROWS = [f"{r.objID},{'' if np.isnan(r.oh_p50) else round(float(r.oh_p50), 2)},{r.ra},{r.dec}" for r in WANT.itertuples()]
PLAIN = "objID,oh_p50,ra,dec\n" + "\n".join(ROWS) + "\n"
TEXTS = {
    "plain": PLAIN, "CasJobs": "#Table1\n" + PLAIN, "capitals": PLAIN.replace("objID,oh_p50,ra,dec", "OBJID,OH_P50,RA,DEC"),
    "byte order mark": "\ufeff" + PLAIN, "CRLF": PLAIN.replace("\n", "\r\n"), "tabs": PLAIN.replace(",", "\t"),
    "semicolons": PLAIN.replace(",", ";"), "decimal commas": PLAIN.replace(",", ";").replace(".", ","),
    "blanks": PLAIN.replace(",", " , ").replace(" ,  , ", " ,--, "), "quotes": PLAIN.replace(str(IDS[0]), f'"{IDS[0]}"'),
    "UTF-16": PLAIN.encode("utf-16"), "TOPCAT": "# " + PLAIN.replace(",,", ",nan,").replace(",", " "),
    "VizieR": PLAIN.replace("ra,dec", "_RAJ2000,_DEJ2000"), "negative ra": PLAIN.replace("275.25", "-84.75"),
    "sexagesimal": PLAIN.replace("10.5,", "00:42:00.0,").replace("275.25,", "18 21 00,").replace("-1.5\n", "-01:30:00\n"),
    "no last newline": PLAIN.rstrip("\n"), "all text": PLAIN,
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_csv_is_read_however_it_is_written(kind, tmp_path):
    found = read(write(tmp_path / "sky", TEXTS[kind]))[list(WANT)]
    assert found.drop(columns=["ra", "dec"]).equals(WANT.drop(columns=["ra", "dec"]))
    np.testing.assert_allclose(found[["ra", "dec"]], WANT[["ra", "dec"]])


@pytest.mark.parametrize("ending, kind", [(".fits", "fits"), (".vot", "votable"), (".ecsv", "ascii.ecsv")])
def test_astropys_tables_are_read(ending, kind, tmp_path):
    table = Table.from_pandas(WANT.rename(columns={"ra": "RA", "dec": "DEC"}))
    table["specObjID"] = np.ma.array([1, 2, 3, 4], "int64", mask=[0, 1, 0, 0])
    table.write(tmp_path / f"catalog{ending}", format=kind)
    assert read(tmp_path)[list(WANT)].equals(WANT)


@pytest.mark.parametrize("change", [
    lambda t: t.set_index("objID"), lambda t: t.astype({"oh_p50": "Float32", "objID": "Int64"}), lambda t: t.astype({"objID": str}),
    lambda t: t.astype({"objID": "category"}), lambda t: t.convert_dtypes(dtype_backend="pyarrow"),
    lambda t: t.astype({"objID": "uint64"}), lambda t: t.rename(columns=str.upper), lambda t: t.astype(object),
])
def test_parquet_of_any_program_is_read(change, tmp_path):
    change(WANT).to_parquet(tmp_path / "catalog.parquet")
    assert read(tmp_path)[list(WANT)].equals(WANT)


def test_large_integers_with_gaps_are_exact(tmp_path):
    other = [str(IDS[5]), "", str(IDS[6]), str(IDS[7])]
    folder = write(tmp_path / "a", "objID,dr7\n" + "".join(f"{i},{o}\n" for i, o in zip(IDS, other)))
    assert read(folder)["dr7"].fillna("").tolist() == other
    table = pd.DataFrame({"objID": IDS[:4], "dr7": pd.array([IDS[5], None, IDS[6], IDS[7]], dtype="Int64")})
    (tmp_path / "b").mkdir()
    table.to_parquet(tmp_path / "b" / "catalog.parquet")
    assert read(tmp_path / "b")["dr7"].iloc[2] == IDS[6]


@pytest.mark.parametrize("name", ["catalog.xlsx", "catalog.json", "catalog.feather", "catalog.csv.zip"])
def test_what_cannot_be_read_says_what_to_save(name, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    raises(lambda: read(tmp_path), contains=f"{name} cannot be read: save it as catalog.csv", exc=FileNotFoundError)


@pytest.mark.parametrize("text", [
    "", "objID\n", "a,b\n1,2\n", "objID,oh_p50\n1,2,3\n", b"objID,oh_p50\n1,\xff\xfe\n", "<html><body>503</body></html>",
    "objID,oh_p50\n1,8.7\n1,8.7\n", "objID,oh_p50\n1,eight\n", "objID;ra\n1;2;3;4\n", b"\x00\x01\x02", b"PK\x03\x04",
])
def test_what_is_no_table_is_one_sentence(text, tmp_path):
    with pytest.raises(InputError) as e: read(write(tmp_path / "sky", text))
    assert "\n" not in str(e.value)


def test_two_catalogs_must_agree(tmp_path):
    WANT.to_parquet(tmp_path / "catalog.parquet")
    WANT.to_csv(tmp_path / "catalog.csv", index=False)
    assert len(catalog_files(tmp_path)) == 2 and read(tmp_path).equals(WANT)
    WANT.assign(oh_p50=WANT.oh_p50 - 0.3).to_csv(tmp_path / "catalog.csv", index=False)
    raises(lambda: read(tmp_path), contains="catalog.csv is newer", exc=InputError)
    write(tmp_path, "objID,oh_p50\n1,2,3\n")
    raises(lambda: read(tmp_path), contains="keep one", exc=InputError)


# --- columns

def test_spectra_may_be_missing_or_negative(tmp_path):
    for k, spectra in enumerate((["299489677444933633", ""], ["-5", "7"], ["-5", ""])):
        folder = write(tmp_path / str(k), "objID,specObjID\n" + "".join(f"{i},{s}\n" for i, s in zip(IDS, spectra)))
        assert [("" if pd.isna(v) else str(v)) for v in read(folder)["specObjID"]] == spectra
        assert content_hash(read(folder)) == content_hash(read_survey(folder).catalog)
        assert pack(folder).is_file()


def test_a_text_target_is_one_sentence(tmp_path):
    folder = survey(tmp_path / "sky", 20, morphology=["Sb", "E"] * 10)
    raises(lambda: read_survey(folder).target("morphology"), contains="morphology is 'Sb', not a number", exc=InputError)


def test_columns_with_our_names_do_not_collide(tmp_path):
    extra = dict(split="train", image="a.jpg", file="b", flag=1, fold=2, metallicity_pred=8.0, catalog_image="c")
    folder = survey(tmp_path / "sky", 20, **extra)
    sky = read_survey(folder)
    packed = pd.read_parquet(pack(folder))
    assert packed["image"].map(lambda b: b[:2] == b"\xff\xd8").all() and (packed["catalog_image_"] == "a.jpg").all()
    assert image_sources(sky)[3].data == jpeg(3)
    table = prediction_table(sky, np.repeat("fold0", 20), pd.DataFrame({"metallicity_pred": OH[:20], "flag": False}))
    assert table.columns.is_unique and (table["split"] == "fold0").all() and (table["catalog_split"] == "train").all()
    assert table["catalog_flag"].eq(1).all() and not table["flag"].any()


# --- pictures

@pytest.mark.parametrize("trailer", [b"\n", b"\r\n", b"\0" * 9, b"<?php ?>", b"\xff\xd8\xff\xe0 more", os.urandom(300)])
def test_bytes_after_the_end_of_a_jpeg_do_no_harm(trailer):
    for progressive in (False, True):
        buffer = io.BytesIO()
        Image.fromarray(picture()).save(buffer, "JPEG", progressive=progressive, quality=90)
        whole = buffer.getvalue()
        assert np.array_equal(decode(whole + trailer), decode(whole))
        for cut in (2, 3, 50, len(whole) // 2):
            raises(lambda: decode(whole[:-cut] + trailer.replace(b"\xff", b"")), exc=ValueError, contains="")


@pytest.mark.parametrize("ending", [".jpeg", ".JPG", ".png", ".PNG", ".tif", ".TIFF"])
def test_a_survey_reads_other_endings(ending, tmp_path):
    folder = survey(tmp_path / "sky", 20)
    old = folder / "images" / f"{IDS[4]}.jpg"
    new = old.with_name(f"{IDS[4]}{ending}")
    if ending.lower() in (".png", ".tif", ".tiff"): Image.open(old).save(new)
    else: new.write_bytes(old.read_bytes())
    want = read_image(old)
    old.unlink()
    sky = read_survey(folder)
    assert validate(sky) == [] and sky.image_files[4] == str(new) == str(sky.image_path(IDS[4]))
    assert np.array_equal(read_image(sky.image_files[4]), want)
    assert _load_labeled(sky, ("metallicity",))[1].shape[0] == 20


def test_pictures_that_would_be_read_wrongly_are_named(tmp_path):
    deep = Image.fromarray(picture()[..., 0].astype("uint16") * 256)
    clear = Image.fromarray(picture())
    clear.putalpha(100)
    for name, image, message in (("deep.png", deep, "more than 8 bits"), ("deep.tif", deep, "more than 8 bits"),
                                 ("clear.png", clear, "transparent")):
        image.save(tmp_path / name)
        raises(lambda: read_image(tmp_path / name), contains=message, exc=InputError)
    for name, mode in (("gray.png", "L"), ("palette.png", "P"), ("gray.jpg", "L"), ("ink.jpg", "CMYK"), ("ink.tif", "CMYK")):
        Image.fromarray(picture()).convert(mode).save(tmp_path / name)
        assert read_image(tmp_path / name).shape == (128, 128, 3)


@pytest.mark.parametrize("value, word", [(0, "black"), (255, "saturated"), (90, "all pixels are the same")])
def test_pictures_of_nothing_are_named_at_training(value, word, tmp_path):
    folder = survey(tmp_path / "sky", 20)
    Image.fromarray(np.full((128, 128, 3), value, np.uint8)).save(folder / "images" / f"{IDS[7]}.jpg")
    raises(lambda: _load_labeled(read_survey(folder), ("metallicity",)), contains="1 x blank image", exc=InputError)
    raises(lambda: _load_labeled(read_survey(folder), ("metallicity",)), contains=word, exc=InputError)
    assert len(_load_labeled(read_survey(folder), ("metallicity",), drop_bad=True)[0]) == 19
    assert len(validate(read_survey(folder))) == 1


# --- predict reads what train reads

def saved(folder, name, image, **options):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options)
    return folder / name


TURNED = Image.Exif()
TURNED[0x0112] = 8
WHOLE = Image.fromarray(picture())
CLEAR = Image.fromarray(np.dstack([picture(), np.full((128, 128), 90, np.uint8)]))
KINDS = {  # name of the file: how it is written, and what is wrong with it ('' for nothing)
    "gray.jpg": (WHOLE.convert("L"), {}, ""), "ink.jpg": (WHOLE.convert("CMYK"), {}, ""), "gray.PNG": (WHOLE.convert("L"), {}, ""),
    "palette.png": (WHOLE.convert("P"), {}, ""), "alpha.png": (WHOLE.convert("RGBA"), {}, ""), "turned.jpeg": (WHOLE, {"exif": TURNED}, ""),
    "plain.JPG": (WHOLE, {}, ""), "progressive.jpg": (WHOLE, {"progressive": True}, ""), "gray alpha.png": (WHOLE.convert("LA"), {}, ""),
    "lzw.tif": (WHOLE, {"compression": "tiff_lzw"}, ""), "zip.TIFF": (WHOLE, {"compression": "tiff_adobe_deflate"}, ""),
    "ink.tif": (WHOLE.convert("CMYK"), {}, ""), "clear.png": (CLEAR, {}, "transparent"), "bits.png": (WHOLE.convert("1"), {}, "black"),
    "deep.png": (Image.fromarray(picture()[..., 0].astype("uint16") * 256), {}, "more than 8 bits"),
    "deep.tif": (Image.fromarray(picture()[..., 0].astype("float32")), {}, "more than 8 bits"),
    "two.tif": (WHOLE, {"save_all": True, "append_images": [WHOLE]}, "2 pictures"),
    "black.png": (Image.new("RGB", (128, 128)), {}, "black"), "white.jpg": (Image.new("RGB", (128, 128), "white"), {}, "saturated"),
    "oblong.jpg": (WHOLE.resize((160, 120)), {}, "160x120 px"), "small.png": (WHOLE.resize((64, 64)), {}, "64x64 px"),
}


@pytest.mark.parametrize("name", KINDS)
def test_predict_reads_what_train_reads(name, tmp_path):
    image, options, fault = KINDS[name]
    file = str(saved(tmp_path, name, image, **options))
    there, reason = try_read_image(file, 112)
    trained, problem = try_image(file, 1, 128)
    assert (there is None) == (trained is None) == bool(fault) and fault in reason and fault in str(problem or "")
    if fault: return
    want = np.asarray(image.convert("RGB"), int)
    if name == "turned.jpeg": want = np.rot90(want)
    assert np.array_equal(there, trained) and np.abs(there - want).mean() < 4


def test_a_bad_picture_costs_its_row(mock_run, tmp_path):
    folder, table = tmp_path / "in", tmp_path / "t.csv"
    for name, (image, options, _) in KINDS.items(): saved(folder, name, image, **options)
    (folder / "page.png").write_bytes(b"<html>503</html>")
    (folder / "none.fits").write_bytes(b"")
    bad = {name for name, (*_, fault) in KINDS.items() if fault} | {"page.png", "none.fits"}
    raises(lambda: predict(mock_run, folder, table), contains=f"{len(bad)} of {len(KINDS) + 2} files could not be used", exc=Incomplete)
    read, errors = pd.read_csv(table), pd.read_csv(tmp_path / "t.errors.csv")
    assert {os.path.basename(f) for f in errors["path"]} == bad and read["metallicity_pred"].notna().all()
    assert {os.path.basename(f) for f in read["path"]} == set(KINDS) - bad
    for name, error in zip(errors["path"].map(os.path.basename), errors["error"]): assert KINDS.get(name, ("", "", ""))[2] in error


def test_nothing_in_a_folder_is_passed_over_without_a_word(mock_run, tmp_path):
    for name in ("7.jpg", "b/7.jpg", "b/c/8.PNG", "b/9.jpeg", "10.TIF", ".hidden.jpg", "b/._7.jpg"): saved(tmp_path / "in", name, WHOLE)
    for name in ("x.webp", "b/notes.txt"): (tmp_path / "in" / name).write_bytes(b"x")
    found = predict(mock_run, tmp_path / "in", tmp_path / "t.parquet")
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert table["image"].tolist() == ["7", "7", "8", "9", "10"] and found["n"] == 5
    assert [os.path.relpath(f, tmp_path / "in") for f in table["path"]] == ["7.jpg", "b/7.jpg", "b/c/8.PNG", "b/9.jpeg", "10.TIF"]
    assert "no images and were passed over: 2 (x.webp, notes.txt)" in " ".join(found["notes"])
    os.remove(tmp_path / "in" / "7.jpg")
    two = predict(mock_run, [tmp_path / "in", tmp_path / "in" / "b"], tmp_path / "t.csv")
    assert two["n"] == 7 and pd.read_csv(tmp_path / "t.csv").groupby("image")["path"].nunique().loc[7] == 1
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.webp").write_bytes(b"x")
    raises(lambda: predict(mock_run, tmp_path / "none", tmp_path / "t.csv"), contains="it holds a.webp", exc=InputError)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_list_of_any_editor_keeps_every_line(encoding, newline, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    lines = ["images/1.jpg", "a b/ü é.PNG", "~/x.jpg", "", "  /data/y.tif  ", "a\u2028b\x85.jpg"]
    text = newline.join(lines) + newline
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "list.TXT").write_bytes((mark + text).encode(encoding))
    want = [tmp_path / "images/1.jpg", tmp_path / "a b/ü é.PNG", tmp_path / "home/x.jpg", "/data/y.tif", tmp_path / "a\u2028b\x85.jpg"]
    assert find_images(tmp_path / "list.TXT") == ([str(f) for f in want], [])


def test_pictures_of_another_width_are_named(mock_run, tmp_path):
    for k, width in enumerate((128, 256, 256, 200)): saved(tmp_path / "in", f"{k}.png", Image.fromarray(picture(k, width)))
    notes = predict(mock_run, tmp_path / "in", tmp_path / "t.csv")["notes"]
    assert "those of the training (128 px): 1 of 200 px, 2 of 256 px" in notes[-1]
    assert predict(mock_run, tmp_path / "in" / "0.png", tmp_path / "t.csv")["notes"] == notes[:-1]


def test_gray_pictures_are_named(mock_run, tmp_path):
    for k, mode in enumerate(("L", "RGB", "LA")): saved(tmp_path / "in", f"{k}.png", WHOLE.convert(mode))
    notes = predict(mock_run, tmp_path / "in", tmp_path / "t.csv")["notes"]
    assert notes[-1] == "Gray pictures, where the network has learned from colors: 2."


def test_names_that_are_no_text_are_written(mock_run, tmp_path):
    os.makedirs(tmp_path / "in")
    for name, data in ((b"caf\xe9.jpg", jpeg()), (b"bad\xff.jpg", b"")):
        with open(os.path.join(os.fsencode(tmp_path / "in"), name), "wb") as f: f.write(data)
    for table, read in ((tmp_path / "t.csv", pd.read_csv), (tmp_path / "t.parquet", pd.read_parquet)):
        with pytest.raises(Incomplete): predict(mock_run, tmp_path / "in", table)
        assert read(table)["image"].tolist() == ["caf\ufffd"] and len(pd.read_csv(tmp_path / "t.errors.csv")) == 1


def damaged(data, rng):
    "Bytes with a few of them changed, cut short, or with a piece of zeros"
    data = bytearray(data)
    way = rng.integers(4)
    at = rng.integers(len(data))
    if way == 0: return bytes(data[:at])
    if way == 1: data[at:at + 50] = bytes(len(data[at:at + 50]))
    head = len(data) if way == 2 else min(600, len(data))
    for i in rng.integers(head, size=rng.integers(1, 12)): data[i] = rng.integers(256)
    return bytes(data)


def as_fits(data, ending):
    buffer = io.BytesIO()
    fits.PrimaryHDU(data.transpose(2, 0, 1)).writeto(buffer)
    return gzip.compress(buffer.getvalue()) if ending.endswith(".gz") else buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif", ".fits", ".fits.gz"])
def test_damage_of_any_kind_is_one_sentence(ending):
    rng, whole = np.random.default_rng(2), picture(size=48)
    buffer = io.BytesIO()
    if ending in (".jpg", ".png", ".tif"): Image.fromarray(whole).save(buffer, {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF"}[ending])
    data = buffer.getvalue() or as_fits(whole, ending)
    for _ in range(100):
        try: assert read_image(PackedCutout("a" + ending, damaged(data, rng))).dtype == np.uint8
        except InputError as e: assert "\n" not in str(e) and "<_io" not in str(e) and "cannot be read as a cutout: " in str(e)


# --- twins, and a training

def test_a_galaxy_under_two_ids_stays_in_one_split(tmp_path, capsys):
    folder = survey(tmp_path / "sky", 40)
    twins = IDS + 2**28
    for i, t in zip(IDS, twins): (folder / "images" / f"{t}.jpg").write_bytes((folder / "images" / f"{i}.jpg").read_bytes())
    pd.DataFrame({"objID": np.r_[IDS, twins], "12+log(O/H)": np.r_[OH, OH]}).to_csv(folder / "catalog.csv", index=False)
    run = train(folder, tmp_path / "run", epochs=1, arch="xresnet_tiny", init="none", folds=2, device="cpu",
                targets=("12+log(O/H)",), calibrate=False)
    said = capsys.readouterr().out
    assert "80 rows are 40 galaxies" in said and "The split is random" in said
    split = run.split
    assert (split.names[:40] == split.names[40:]).all()
    assert run.predict(run.survey()).mean.shape == (80, 1)


def test_positions_make_twins():
    table = pd.DataFrame({"objID": [1, 2, 3], "ra": [10.0, 10.0 + 0.5 / 3600, 10.1], "dec": 0.0})
    assert same_galaxies(table) == [[1, 2]]
    assert Split.make(table).hash == Split.make(table, together=()).hash


# --- the property

WORDS = st.text(string.ascii_letters + " _-#éλ,;\"'\t", max_size=8)
IDS_AS_TEXT = st.one_of(
    st.integers(-2**63, 2**63 - 1).map(str), st.integers(0, 10**6).map(str), st.integers(2**60, 2**61).map(lambda i: repr(float(i))),
    st.integers(2**60, 2**61).map(lambda i: f"{i:.5E}"), st.integers(2**60, 2**61).map(lambda i: f"'{i}"),
    st.integers(0, 10**25).map(str), st.sampled_from(["", "nan", "null", "1,5", "0x10", "--"]), WORDS)
VALUES = st.one_of(st.floats(width=32).map(repr), st.sampled_from(["", "-9999", "-99.9", "99", "1e20", "--", "8,7", "null"]), WORDS)
NAMES = st.sampled_from(["oh_p50", "OH_P50", "RA", "dec", "_RAJ2000", "split", "image", "note", "objid", " objID", "Z", "ra"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["objID", "OBJID", "objID "]), NAMES, st.lists(st.tuples(IDS_AS_TEXT, VALUES), max_size=5),
       st.sampled_from([",", ";", "\t"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
       st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "#Table1"]))
def test_the_reader_keeps_every_value_or_says_one_sentence(tmp_path, name, other, rows, separator, encoding, newline, above):
    lines = [separator.join((name, other)), *(separator.join(row) for row in rows)]
    text = newline.join(([above] if above else []) + lines) + newline
    write(tmp_path, text.encode(encoding, errors="replace"))
    try: found = read(tmp_path)
    except InputError as e:
        assert "\n" not in str(e) and str(e).count("Traceback") == 0
        return
    if other.strip().lower() == "objid" or any(separator in i + v for i, v in rows): return  # cells that are two
    lines = [row for row in rows if separator.join(row).strip()]
    assert found["objID"].tolist() == [int(i.strip().partition(".")[0]) for i, _ in lines]  # 7. is 7
    column = next((c for c in found if c in ("oh_p50",)), None)
    if not column: return
    for value, (_, text) in zip(found[column], lines):
        if np.isnan(value): assert text.strip(' "').lower() in ("", "--", "-", "nan", "null", "none", "masked", "na", "n/a")
        else: assert value == np.float32(float(text.strip(" \"").replace(",", ".")))
