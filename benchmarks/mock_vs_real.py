"""Image statistics of the mock sky beside those of real SDSS cutouts, and classifiers that try to tell them apart.

    GALAXY_CNN_REAL=FOLDER python benchmarks/mock_vs_real.py [MOCK_SURVEY] [--out results/mock_vs_real.csv]

FOLDER holds sdss_sample/. Without MOCK_SURVEY a mock of 1000 galaxies, seed 7 (the mock was calibrated on seed 1), is
drawn into a temporary folder. Only marginal statistics of the real cutouts, and their correlations with the
metallicity, are written; no image and no galaxy's value leaves the real sample. The areas under the ROC curve go into
mock_vs_real.json beside the table, under the mock's version, and those of earlier versions stay there. Without --out
nothing is written.
"""
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from harness import option_parser, real_folder
from scipy import ndimage
from scipy.stats import ks_2samp
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from galaxy_cnn.files import read_json, write_json
from galaxy_cnn.images import decode
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.survey import read_survey

APERTURES = (2, 4, 8, 16, 32)   # radii [px]
ISOPHOTES = (10, 25, 60)        # [8-bit counts above the background]
LAGS = (1, 2, 4)                # [px]
OCTAVES = (1, 2, 4, 8)          # [px] widths of the filters between which detail is measured
RINGS = ((0, 8), (8, 20), (20, 70))   # [px]


def background(rgb):
    "Level, noise and noise correlation of the emptiest 40-px corner, and the correlation of its colors"
    corners = rgb[:40, :40], rgb[:40, -40:], rgb[-40:, :40], rgb[-40:, -40:]
    corner, out = min(corners, key=np.std), {}
    for name, d in zip("RGB", np.moveaxis(corner, 2, 0)):
        out[f"sky_{name}"] = d.mean()
        out[f"noise_{name}"] = d.std()
    planes = {"light": corner.mean(2), "colour": corner[..., 0] - corner[..., 2]}
    for name, d in planes.items():
        for k in LAGS: out[f"correlation_{name}_{k}"] = autocorrelation(d - d.mean(), k)
    return out


def autocorrelation(d, k):
    "Correlation of a plane of mean 0 with itself, k pixels down and to the right"
    down = (d[k:] * d[:-k]).mean()
    right = (d[:, k:] * d[:, :-k]).mean()
    return (down + right) / (2 * d.var() + 1e-9)


def radius(shape):
    "Distance of each pixel from the center of a picture [px]"
    middle = (np.array(shape)[:, None, None] - 1) / 2
    y, x = np.indices(shape) - middle
    return np.hypot(x, y)


def photometry(rgb):
    "Aperture brightness and colors about the center"
    r, out = radius(rgb.shape[:2]), {}
    for inner, a in zip((0, *APERTURES), APERTURES):
        ring = rgb[(r < a) & (r >= inner)].mean(0)
        out[f"light_{a}"] = np.log10(max(ring.mean(), 0.3))
        red_green, blue_green = np.maximum(ring[[0, 2]], 0.3) / max(ring[1], 0.3)
        out[f"RG_{a}"] = np.log10(red_green)
        out[f"BG_{a}"] = np.log10(blue_green)
    return out


def island(light, level):
    "Pixels of the isophote around the center, and those of all others"
    label, _ = ndimage.label(ndimage.gaussian_filter(light, 1) > level)
    middle = label[light.shape[0] // 2, light.shape[1] // 2]
    own = (label == middle) & (middle > 0)
    return own, (label > 0) & ~own


def shape(light):
    "Isophotal radii, ellipticity, concentration, asymmetry, small-scale structure, companions"
    islands = {level: island(light, level) for level in ISOPHOTES}
    out = {f"radius_{level}": np.sqrt(own.sum() / np.pi) for level, (own, _) in islands.items()}
    galaxy, others = islands[ISOPHOTES[0]]
    out["others_area"] = np.log10(1 + others.sum())
    out["others_light"] = np.log10(1 + light[others].max(initial=0))
    if galaxy.sum() < 20: return {**out, **dict.fromkeys(SHAPES, np.nan)}
    return {**out, **dict(zip(SHAPES, galaxy_shape(light, galaxy)))}


SHAPES = ("ellipticity", "concentration", "asymmetry", "structure", "offset", "edge")


def galaxy_shape(light, galaxy):
    "The numbers of `SHAPES` for the pixels of a galaxy"
    y, x = np.nonzero(galaxy)
    w = light[galaxy]
    cy, cx = np.average(y, weights=w), np.average(x, weights=w)
    yield ellipticity(x, y, w)
    yield concentration(np.hypot(x - cx, y - cy), w)
    yield asymmetry(light, galaxy)
    detail = ndimage.gaussian_filter(light, 1.5) - ndimage.gaussian_filter(light, 4)
    yield detail[galaxy].std() / w.mean()
    yield np.hypot(cy - light.shape[0] // 2, cx - light.shape[1] // 2)
    gy, gx = np.gradient(ndimage.gaussian_filter(light, 1))
    yield np.percentile(np.hypot(gx, gy)[galaxy], 95) / w.mean()


def ellipticity(x, y, w):
    "1 - b/a of the second moments of the light"
    least, most = np.linalg.eigvalsh(np.cov(np.stack([x, y]), aweights=w))
    return 1 - np.sqrt(max(least, 0) / most)


def concentration(r, w):
    "Radius of 80 % of the light over that of 30 %"
    order = np.argsort(r)
    growth = np.cumsum(w[order]) / w.sum()
    inner, outer = np.interp([0.3, 0.8], growth, r[order])
    return outer / max(inner, 0.5)


def asymmetry(light, galaxy):
    "Light that half a turn changes, where the galaxy lies in both"
    both = galaxy & galaxy[::-1, ::-1]
    if not both.any(): return 0
    return np.abs(light - light[::-1, ::-1])[both].sum() / light[both].sum()


def statistics(file):
    "All statistics of one cutout"
    rgb = decode(file).astype(float)
    return {**background(rgb), **photometry(rgb), **shape(rgb.mean(2)), "kilobytes": os.path.getsize(file) / 1000}


def table(real, mock, oh_real, oh_mock):
    "A row per statistic: mean and standard deviation of each sky, their distance, correlation of each with metallicity"
    rows = []
    for name in real:
        a, b = real[name], mock[name]
        rows.append({"statistic": name, "real_mean": a.mean(), "mock_mean": b.mean(),
                     "real_std": a.std(), "mock_std": b.std(), "ks": ks_2samp(a.dropna(), b.dropna()).statistic,
                     "real_corr_z": a.corr(pd.Series(oh_real), method="spearman"),
                     "mock_corr_z": b.corr(pd.Series(oh_mock), method="spearman")})
    return pd.DataFrame(rows)


def bands(rgb):
    "Strength of the detail [log10 of counts]: light and two colors, four octaves, three rings about the center"
    r, out = radius(rgb.shape[:2]), []
    red, green, blue = np.moveaxis(rgb, 2, 0)
    for plane in (rgb.mean(2), red - green, blue - green):
        for sigma in OCTAVES:
            smooth = ndimage.gaussian_filter(plane, sigma)
            detail = plane - smooth
            out += [np.log10(detail[(r >= a) & (r < b)].std() + 0.05) for a, b in RINGS]
            plane = smooth
    return out


def pixels(file):
    "What a classifier on pixels sees of a cutout: the picture at 32 px, and the strength of its detail"
    rgb = decode(file).astype(float)
    n = rgb.shape[0] // 32
    blocks = rgb[:32 * n, :32 * n].reshape(32, n, 32, n, 3)
    return np.r_[np.sqrt(blocks.mean((1, 3))).ravel(), bands(rgb)]


def tell_pixels_apart(real, mock):
    "Area under the ROC curve of classifiers on 40 principal components of the pictures and on their detail"
    x = np.stack([pixels(f) for f in [*real, *mock[:len(real)]]])
    y, n = np.repeat([0, 1], len(real)), 32 * 32 * 3
    picture = "picture", PCA(40, random_state=0), slice(0, n)
    detail = "detail", StandardScaler(), slice(n, None)
    seen = ColumnTransformer([picture, detail])
    return {f"pixels_{k}": area(make_pipeline(seen, m), x, y) for k, m in classifiers().items()}


def classifiers():
    "The classifiers that try to tell a mock cutout from a real one"
    options = dict(Cs=5, max_iter=2000, scoring="roc_auc", l1_ratios=(0,), use_legacy_attributes=False)
    return {"random_forest": RandomForestClassifier(400, min_samples_leaf=2, n_jobs=1, random_state=0),
            "logistic": make_pipeline(StandardScaler(), LogisticRegressionCV(**options))}


def area(model, x, y):
    "Area under the ROC curve, five-fold cross-validated"
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return roc_auc_score(y, cross_val_predict(model, x, y, cv=folds, method="predict_proba")[:, 1])


def tell_apart(real, mock):
    "Area under the ROC curve (0.5: cannot tell) of two classifiers on the statistics, cross-validated on equal numbers"
    mock = mock.iloc[:len(real)]
    x = pd.concat([real, mock]).fillna(0).to_numpy()
    y = np.repeat([0, 1], [len(real), len(mock)])
    return {k: area(m, x, y) for k, m in classifiers().items()}


def mock_survey(args, folder):
    "The mock Survey asked for, or one drawn into a folder"
    return read_survey(args.mock) if args.mock else make_mock(Path(folder) / "mock", n=1000, seed=7, workers=2)


def main(args):
    "Measure both skies, print and write the table"
    real = read_survey(real_folder("sdss_sample/") / "sdss_sample")
    with tempfile.TemporaryDirectory() as folder:
        mock = mock_survey(args, folder)
        a, b = (pd.DataFrame([statistics(f) for f in s.image_files]) for s in (real, mock))
        auc = {**tell_apart(a, b), **tell_pixels_apart(real.image_files, mock.image_files)}
    t = table(a, b, real.target("metallicity"), mock.target("metallicity"))
    t.attrs = {"n_real": len(real), "n_mock": len(mock), **auc}
    print(t.round(3).to_string(index=False), "\n", t.attrs)
    if args.out: publish(args.out, t, auc, len(real), len(mock), mock.info["mock_version"])


def publish(out, t, auc, n_real, n_mock, version):
    "Write the table with the classifiers' areas below it, and these areas among those of other versions of the mock"
    rows = pd.DataFrame({"statistic": [f"auc_{k}" for k in auc], "mock_mean": auc.values()})
    pd.concat([t, rows]).assign(n_real=n_real, n_mock=n_mock).round(4).to_csv(out, index=False)
    history = Path(out).with_suffix(".json")
    versions = read_json(history) if history.exists() else {}
    gap = (t.real_corr_z - t.mock_corr_z).abs().mean()
    found = {f"auc_{k}": round(v, 4) for k, v in auc.items()}
    found |= {"mean_gap_of_correlations_with_z": round(gap, 4), "n_real": n_real, "n_mock": n_mock}
    write_json(history, {**versions, version: found})


if __name__ == "__main__":
    parser = option_parser(__doc__)
    parser.add_argument("mock", nargs="?", help="a mock Survey; default: drawn here")
    parser.add_argument("--out", help="CSV to write")
    main(parser.parse_args())
