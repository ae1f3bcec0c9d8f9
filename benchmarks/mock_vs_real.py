"""Image statistics of the mock sky beside those of real SDSS cutouts, and classifiers that try to tell them apart.

usage: GALAXY_CNN_REAL=<folder with sdss_sample/> python benchmarks/mock_vs_real.py [MOCK_SURVEY] [--out results/mock_vs_real.csv]

Without MOCK_SURVEY a mock of 1000 galaxies, seed 7 (the mock was calibrated on seed 1), is drawn into a temporary folder. Only marginal statistics of the real
cutouts, and their correlations with Z, are written; no image and no galaxy's value leaves the real sample. The areas under
the ROC curve go into mock_vs_real.json beside the table, under the mock's version, and those of earlier versions stay there.
"""
import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
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
    "Level, noise and noise correlation of the emptiest 40-px corner, and the correlation of its colours"
    corner = min((rgb[:40, :40], rgb[:40, -40:], rgb[-40:, :40], rgb[-40:, -40:]), key=lambda x: x.std())
    out = {}
    for name, d in zip("RGB", np.moveaxis(corner, 2, 0)): out[f"sky_{name}"], out[f"noise_{name}"] = d.mean(), d.std()
    light, chroma = corner.mean(2), corner[..., 0] - corner[..., 2]
    for name, d in (("light", light), ("colour", chroma)):
        d = d - d.mean()
        for k in LAGS: out[f"correlation_{name}_{k}"] = ((d[k:] * d[:-k]).mean() + (d[:, k:] * d[:, :-k]).mean()) / (2 * d.var() + 1e-9)
    return out


def photometry(rgb):
    "Aperture brightness and colours about the centre"
    y, x = np.indices(rgb.shape[:2]) - (np.array(rgb.shape[:2])[:, None, None] - 1) / 2
    r, inner, out = np.hypot(x, y), 0, {}
    for a in APERTURES:
        ring = rgb[(r < a) & (r >= inner)].mean(0)
        out[f"light_{a}"] = np.log10(max(ring.mean(), 0.3))
        out[f"RG_{a}"], out[f"BG_{a}"] = np.log10(np.maximum(ring[[0, 2]], 0.3) / max(ring[1], 0.3))
        inner = a
    return out


def shape(light):
    "Isophotal radii, ellipticity, concentration, asymmetry, small-scale structure, companions"
    out, centre = {}, (light.shape[0] // 2, light.shape[1] // 2)
    for t in ISOPHOTES:
        label, _ = ndimage.label(ndimage.gaussian_filter(light, 1) > t)
        own = label == label[centre] if label[centre] else np.zeros(light.shape, bool)
        out[f"radius_{t}"] = np.sqrt(own.sum() / np.pi)
        if t == ISOPHOTES[0]: galaxy, others = own, (label > 0) & ~own
    out["others_area"] = np.log10(1 + others.sum())
    out["others_light"] = np.log10(1 + light[others].max(initial=0))
    if galaxy.sum() < 20: return {**out, **dict.fromkeys(("ellipticity", "concentration", "asymmetry", "structure", "offset", "edge"), np.nan)}
    y, x = np.nonzero(galaxy)
    w = light[galaxy]
    cy, cx = np.average(y, weights=w), np.average(x, weights=w)
    q = np.cov(np.stack([x, y]), aweights=w)
    values = np.linalg.eigvalsh(q)
    out["ellipticity"] = 1 - np.sqrt(max(values[0], 0) / values[1])
    order = np.argsort(np.hypot(x - cx, y - cy))
    growth = np.cumsum(w[order]) / w.sum()
    radii = np.hypot(x - cx, y - cy)[order]
    out["concentration"] = np.interp(0.8, growth, radii) / max(np.interp(0.3, growth, radii), 0.5)
    both = galaxy & galaxy[::-1, ::-1]
    out["asymmetry"] = np.abs(light - light[::-1, ::-1])[both].sum() / light[both].sum() if both.any() else 0
    detail = ndimage.gaussian_filter(light, 1.5) - ndimage.gaussian_filter(light, 4)
    out["structure"] = detail[galaxy].std() / w.mean()
    out["offset"] = np.hypot(cy - centre[0], cx - centre[1])
    gy, gx = np.gradient(ndimage.gaussian_filter(light, 1))
    out["edge"] = np.percentile(np.hypot(gx, gy)[galaxy], 95) / w.mean()
    return out


def statistics(file):
    "All statistics of one cutout"
    rgb = decode(file).astype(float)
    return {**background(rgb), **photometry(rgb), **shape(rgb.mean(2)), "kilobytes": os.path.getsize(file) / 1000}


def table(real, mock, z_real, z_mock):
    "One row per statistic: mean and standard deviation of each sky, their distance, correlation of each with Z"
    rows = []
    for name in real:
        a, b = real[name], mock[name]
        ra, rb = (pd.Series(v).corr(pd.Series(z), method="spearman") for v, z in ((a, z_real), (b, z_mock)))
        rows.append({"statistic": name, "real_mean": a.mean(), "mock_mean": b.mean(), "real_std": a.std(), "mock_std": b.std(),
                     "ks": ks_2samp(a.dropna(), b.dropna()).statistic, "real_corr_z": ra, "mock_corr_z": rb})
    return pd.DataFrame(rows)


def bands(rgb):
    "Strength of the pixels' detail [log10 of counts]: light and two colours, four octaves, three rings about the centre"
    y, x = np.indices(rgb.shape[:2]) - (np.array(rgb.shape[:2])[:, None, None] - 1) / 2
    r, out = np.hypot(x, y), []
    for plane in (rgb.mean(2), rgb[..., 0] - rgb[..., 1], rgb[..., 2] - rgb[..., 1]):
        for sigma in OCTAVES:
            smooth = ndimage.gaussian_filter(plane, sigma)
            out += [np.log10((plane - smooth)[(r >= a) & (r < b)].std() + 0.05) for a, b in RINGS]
            plane = smooth
    return out


def pixels(file):
    "What a classifier on pixels sees of a cutout: the picture at 32 px, and the strength of its detail"
    rgb = decode(file).astype(float)
    n = rgb.shape[0] // 32
    return np.r_[np.sqrt(rgb[:32 * n, :32 * n].reshape(32, n, 32, n, 3).mean((1, 3))).ravel(), bands(rgb)]


def tell_pixels_apart(real, mock):
    "Area under the ROC curve of a forest and a logistic regression on 40 principal components of the pictures and on their detail"
    x = np.stack([pixels(f) for f in [*real, *mock[:len(real)]]])
    n = 32 * 32 * 3
    y = np.repeat([0, 1], len(real))
    seen = ColumnTransformer([("picture", PCA(40, random_state=0), slice(0, n)), ("detail", StandardScaler(), slice(n, None))])
    return {f"pixels_{k}": _auc(make_pipeline(seen, m), x, y) for k, m in classifiers().items()}


def classifiers():
    "The classifiers that try to tell a mock cutout from a real one"
    return {"random_forest": RandomForestClassifier(400, min_samples_leaf=2, n_jobs=1, random_state=0),
            "logistic": make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=5, max_iter=2000, scoring="roc_auc", l1_ratios=(0,), use_legacy_attributes=False))}


def _auc(model, x, y):
    "Area under the ROC curve, five-fold cross-validated"
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return roc_auc_score(y, cross_val_predict(model, x, y, cv=folds, method="predict_proba")[:, 1])


def tell_apart(real, mock):
    "Area under the ROC curve (0.5: cannot tell) of two classifiers on the statistics, cross-validated on equal numbers"
    mock = mock.iloc[:len(real)]
    x = pd.concat([real, mock]).fillna(0).to_numpy()
    y = np.repeat([0, 1], [len(real), len(mock)])
    return {k: _auc(m, x, y) for k, m in classifiers().items()}


def main(mock_path=None, out=None):
    "Measure both skies, print and write the table"
    real = read_survey(Path(os.environ["GALAXY_CNN_REAL"]) / "sdss_sample")
    with tempfile.TemporaryDirectory() as tmp:
        mock = read_survey(mock_path) if mock_path else make_mock(Path(tmp) / "mock", n=1000, seed=7, workers=2)
        a, b = (pd.DataFrame([statistics(f) for f in s.image_files]) for s in (real, mock))
        auc = {**tell_apart(a, b), **tell_pixels_apart(real.image_files, mock.image_files)}
    t = table(a, b, real.target("metallicity"), mock.target("metallicity"))
    t.attrs = {"n_real": len(real), "n_mock": len(mock), **auc}
    print(t.round(3).to_string(index=False), "\n", t.attrs)
    if out: publish(out, t, auc, len(real), len(mock), mock.info["mock_version"])


def publish(out, t, auc, n_real, n_mock, version):
    "Write the table with the classifiers' areas below it, and these areas among those of other versions of the mock"
    rows = pd.DataFrame({"statistic": [f"auc_{k}" for k in auc], "mock_mean": auc.values()})
    pd.concat([t, rows]).assign(n_real=n_real, n_mock=n_mock).round(4).to_csv(out, index=False)
    history = Path(out).with_suffix(".json")
    versions = read_json(history) if history.exists() else {}
    gap = (t.real_corr_z - t.mock_corr_z).abs().mean()
    found = {**{f"auc_{k}": round(v, 4) for k, v in auc.items()}, "mean_gap_of_correlations_with_z": round(gap, 4), "n_real": n_real, "n_mock": n_mock}
    write_json(history, {**versions, version: found})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("mock", nargs="?", help="a mock Survey; default: drawn here")
    parser.add_argument("--out", help="CSV to write")
    args = parser.parse_args()
    main(args.mock, args.out)
