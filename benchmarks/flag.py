"""What the flag makes of images that are no galaxies, and of galaxies that are not like those it knows.

    GALAXY_CNN_REAL=FOLDER python benchmarks/flag.py [--n 400] [--mock 1500] [--out results/flag.json]

Six kinds of images are drawn here, in memory: blank sky, lone stars, noise, saturated trails, text and photographs of
other things. The detector is fitted on galaxies alone, so each kind is scored by a detector built without it. Two
detectors: one of the 400 real galaxies in FOLDER/sdss_sample (where FOLDER is given), one of mock galaxies. The rate
among ordinary galaxies is cross-validated, and measured on 2,000 real spirals of FOLDER/sdss_spirals as they are and
brought to the training scale. Writes results/flag.json and results/flag.png (images that are no galaxies; no real
galaxy is shown).
"""
import tempfile
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from harness import option_parser, real_folder, save_figure, write_results
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest
from sklearn.datasets import load_sample_images

from galaxy_cnn.features import measure_images
from galaxy_cnn.images import read_images
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.ood import FALSE_FLAGS, OOD_FEATURES, OODDetector, ood_features, raw_statistics
from galaxy_cnn.survey import read_survey

SIZE = 128  # [px]
Y, X = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
COLORS = np.array([[1.6, 1, 0.45], [1.25, 1, 0.7], [1, 1, 1], [0.8, 1, 1.25]])  # of stars M, K, G, A in i, r, g


# ---- a sky and what is put on it; light is in units of the noise of a pixel of the sky

def smooth_noise(rng, smooth):
    "Noise of unit rms in three channels, averaged over a Gaussian of `smooth` px"
    noise = rng.normal(size=(SIZE, SIZE, 3))
    if smooth: noise = gaussian_filter(noise, (smooth, smooth, 0), mode="wrap")
    return noise / noise.std()


def as_seen(light, rng, smooth=None):
    "Light [128, 128, 3] over a noisy sky, through an asinh stretch of the mean that keeps colors, as a JPEG"
    if smooth is None: smooth = rng.uniform(0.4, 1.6)
    light = light + smooth_noise(rng, smooth)
    mean = light.mean(2, keepdims=True)
    divisor = np.where(np.abs(mean) < 1e-6, 1e-6, mean)
    level = light * 40 * np.arcsinh(mean / 10) / divisor + rng.uniform(2, 9, 3)
    return jpeg(np.clip(level, 0, 255).astype("uint8"), rng)


def jpeg(image, rng):
    "The image after a compression of a usual strength"
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(75, 96)))
    return np.asarray(Image.open(buffer).convert("RGB"))


def star(rng, x, y, width, peak, spikes=0.0):
    "A Moffat profile (beta 3) of a star's color, with four diffraction spikes"
    u, v = X - x, Y - y
    core = width / 2 / np.sqrt(2 ** (1 / 3) - 1)
    light = (1 + (np.hypot(u, v) / core) ** 2) ** -3
    if spikes: light += spikes * (spike(u, v, width) + spike(v, u, width))
    color = COLORS[rng.integers(len(COLORS))]
    return peak * light[..., None] * color * rng.normal(1, 0.05, 3)


def spike(along, across, width):
    "Light of a star's diffraction spikes in one direction and the opposite one"
    return np.exp(-np.abs(along) / (4 * width)) * np.exp(-0.5 * (across / (0.25 * width)) ** 2)


def blank(rng, i):
    "Sky with nothing on it; every second with a few faint sources away from the center"
    light, smooth = np.zeros((SIZE, SIZE, 3)), rng.uniform(0.4, 2)
    for _ in range(rng.integers(1, 5) if i % 2 else 0):
        r, a = rng.uniform(25, 80), rng.uniform(0, 2 * np.pi)
        width, peak = rng.uniform(3, 8), rng.uniform(3, 40)
        light += star(rng, r * np.cos(a), r * np.sin(a), width, peak)
    return as_seen(light, rng, smooth), ("empty", "faint sources off the centre")[i % 2]


def lone_star(rng, i):
    "A star in the middle, faint to saturated; every fourth blown up as a galaxy of its size would be"
    peak, blown = log_uniform(rng, 20, 2e4), i % 4 == 3
    width = rng.uniform(9, 20) if blown else rng.uniform(3, 8)
    x, y = rng.normal(0, 1, 2)
    bright = peak > 1500
    light = star(rng, x, y, width, peak, spikes=rng.uniform(0.005, 0.05) if bright else 0.0)
    if blown: return as_seen(light, rng, rng.uniform(2, 4)), "blown up"
    return as_seen(light, rng), "spikes" if bright else "plain"


def log_uniform(rng, low, high): return np.exp(rng.uniform(np.log(low), np.log(high)))


def noise(rng, i):
    "White or correlated noise about any level, gray or colored"
    kind = ("white", "correlated", "uniform", "bright correlated")[i % 4]
    if kind == "uniform": return rng.integers(0, 256, (SIZE, SIZE, 3)).astype("uint8"), kind
    n = smooth_noise(rng, 0 if kind == "white" else rng.uniform(0.5, 4))
    if rng.random() < 0.5: n = np.repeat(n[..., :1], 3, 2)
    levels, strengths = ((2, 15), (2, 8)) if kind == "correlated" else ((5, 160), (3, 60))
    level, rms = rng.uniform(*levels), rng.uniform(*strengths)
    image = np.clip(level + rms * n, 0, 255).astype("uint8")
    return (image if kind == "white" else jpeg(image, rng)), kind


def disc(rng):
    "An exponential disc of a galaxy's size, inclined at random"
    a, flat, width = rng.uniform(0, np.pi), rng.uniform(0.3, 1), rng.uniform(6, 11)
    u = np.cos(a) * X + np.sin(a) * Y
    v = (np.cos(a) * Y - np.sin(a) * X) / flat
    light = rng.uniform(80, 400) * np.exp(-np.hypot(u, v) / width)
    return light[..., None] * COLORS[1]


def trail(rng, i):
    "A saturated line: a satellite at any angle, over the sky or a galaxy, or the bleeding columns of a bright star"
    kind = ("satellite", "satellite off the centre", "bleed", "over a galaxy")[i % 4]
    angle = np.pi / 2 + rng.normal(0, 0.01) if kind == "bleed" else rng.uniform(0, np.pi)
    if kind == "satellite off the centre": shift = rng.uniform(15, 45) * rng.choice([-1, 1])
    else: shift = rng.normal(0, 4)
    across = np.abs(-np.sin(angle) * X + np.cos(angle) * Y - shift)
    width = rng.uniform(1, 6)
    light = log_uniform(rng, 3e3, 5e4) / (1 + (across / width) ** 4)
    light = light[..., None] * (1 + 0.1 * rng.normal(size=3))
    if kind == "bleed": light = light + star(rng, shift, 0, rng.uniform(5, 12), 2e4, spikes=0.02)
    if kind == "over a galaxy": light = light + disc(rng)
    return as_seen(light, rng), kind


WORDS = ("image not available SDSS field run camcol galaxy error 404 tile loading no data ra dec survey NGC 1300 "
         "z = 0.05").split()
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def text(rng, i):
    "Words of any size on a tile: dark on light, light on dark, colored, or written over the sky"
    kind = ("dark on light", "light on dark", "coloured", "over the sky")[i % 4]
    back, ink = (tuple(rng.integers(0, 256, 3).tolist()) for _ in range(2))
    if kind == "dark on light": back, ink = WHITE, BLACK
    if kind == "light on dark": back, ink = BLACK, WHITE
    tile = Image.new("RGB", (SIZE, SIZE), back)
    if kind == "over the sky": tile, ink = Image.fromarray(blank(rng, 0)[0]), WHITE
    draw, y = ImageDraw.Draw(tile), int(rng.integers(2, 40))
    for _ in range(rng.integers(1, 6)):
        size, x = (int(rng.integers(*ends)) for ends in ((10, 34), (0, 30)))
        words = " ".join(rng.choice(WORDS, 3))
        draw.text((x, y), words, fill=ink, font=ImageFont.load_default(size))
        y += size + 2
    return jpeg(np.asarray(tile), rng), kind


def _photographs():
    "Photographs that come with packages: a temple, a flower, a portrait"
    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    china, flower = load_sample_images().images
    return {"temple": china, "flower": flower, "portrait": np.asarray(Image.open(hopper).convert("RGB"))}


PHOTOGRAPHS = _photographs()


def photograph(rng, i):
    "A random square of a photograph, at a random zoom"
    name = list(PHOTOGRAPHS)[i % len(PHOTOGRAPHS)]
    photo = PHOTOGRAPHS[name]
    side = int(np.exp(rng.uniform(np.log(64), np.log(min(photo.shape[:2])))))
    y, x = (int(rng.integers(0, s - side + 1)) for s in photo.shape[:2])
    return jpeg(resized(photo[y:y + side, x:x + side], SIZE), rng), name


def resized(image, side): return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


KINDS = {"blank sky": blank, "lone star": lone_star, "noise": noise, "saturated trail": trail, "text": text,
         "photograph": photograph}


def strange(kind, n, seed=0):
    "n images uint8 [n, 128, 128, 3] of a kind, and the name of each one's variety"
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    images, names = zip(*(KINDS[kind](rng, i) for i in range(n)))
    return np.stack(images), np.array(names)


# ---- galaxies

def to_training_scale(images, radius):
    "Resize each until its isophote at level 25 has the training's median radius [px of 128]; 128 px of it"
    own, out = np.expm1(measure_all(images)["isophote_25"].to_numpy()) * images.shape[1] / SIZE, []
    for image, r in zip(images, own):
        side = int(np.clip(round(len(image) * radius / max(r, 1)), 72, 512))
        cut, pad = max(side - SIZE, 0) // 2, max(SIZE - side, 0)
        small = resized(image, side)[cut:cut + SIZE, cut:cut + SIZE]
        ends = pad // 2, pad - pad // 2  # continued by reflection
        out.append(np.pad(small, (ends, ends, (0, 0)), mode="reflect"))
    return np.stack(out)


def in_batches(function, images):
    "A table of a function of images, 64 at a time"
    return pd.concat([function(images[i:i + 64]) for i in range(0, len(images), 64)], ignore_index=True)


def measure_all(images): return in_batches(measure_images, images)


def looks_of(images): return in_batches(ood_features, images)  # what a detector sees


def share(flagged):
    "Share of flagged images with its exact 95 % interval"
    found, n = int(np.sum(flagged)), len(flagged)
    ends = proportion_interval(found, n)
    return {"value": found / n, "lo": ends[0], "hi": ends[1], "n": n}


def proportion_interval(k, n):
    "Clopper & Pearson (1934)"
    found = binomtest(k, n).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


def false_rate(looks, folds=5, seeds=5):
    "Share of ordinary galaxies flagged by detectors that have not seen them, threshold and all; each once a seed"
    rates = []
    for seed in range(seeds):
        fold = np.random.default_rng(seed).permutation(len(looks)) % folds
        def flags(k): return OODDetector.fit(looks[fold != k]).flag(looks[fold == k])
        rates.append(share(np.concatenate([flags(k) for k in range(folds)])))
    mean = float(np.mean([r["value"] for r in rates]))
    band = 3 * float(np.sqrt(FALSE_FLAGS * (1 - FALSE_FLAGS) / len(looks)))
    return {"mean_of_seeds": mean, "seeds": rates, "expected": FALSE_FLAGS, "three_binomial_sigma": band,
            "pass": abs(mean - FALSE_FLAGS) <= band}


def caught(detector, looks, names):
    "Share flagged of each kind and of its varieties; how far above the threshold the lowest twentieth is"
    found = {}
    for kind, table in looks.items():
        scores = detector.score(table)
        flagged = scores > detector.threshold
        varieties = {str(v): share(flagged[names[kind] == v]) for v in np.unique(names[kind])}
        lowest = float(np.quantile(scores, 0.05) / detector.threshold)
        found[kind] = {**share(flagged), "pass": bool(flagged.mean() >= 0.95), "score_p5_over_threshold": lowest,
                       "varieties": varieties}
    return found


# ---- figure and main

def sheet(strangers, flagged, title, columns=12):
    "A row of each kind: first what was missed, if anything was, then what was caught"
    fig = Figure(figsize=(columns * 0.85, len(strangers) * 1.1 + 0.4), layout="constrained")
    fig.suptitle(title, fontsize=10)
    for row, (kind, images) in zip(fig.subfigures(len(strangers), 1), strangers.items()):
        brighter = max(1, int(120 / max(np.percentile(images, 99), 1)))  # a blank sky would print as a black square
        note = f", drawn {brighter} times brighter" if brighter > 1 else ""
        row.suptitle(f"{kind}: {flagged[kind].mean():.1%} of {len(images)} flagged{note}", fontsize=9)
        order = np.concatenate([np.flatnonzero(~flagged[kind])[:3], np.flatnonzero(flagged[kind])])[:columns]
        for ax, i in zip(row.subplots(1, columns), order):
            ax.imshow(np.clip(images[i].astype(int) * brighter, 0, 255).astype("uint8"))
            ax.set(xticks=[], yticks=[])
            frame = dict(color="0.8", lw=0.5) if flagged[kind][i] else dict(color="#c1272d", lw=3)
            for spine in ax.spines.values(): spine.set(**frame)
    return fig


RAW = list(raw_statistics(np.zeros((1, SIZE, SIZE, 3), "uint8")))
WITHOUT_RAW = [name for name in OOD_FEATURES if name not in RAW]
VARIANTS = {  # what else a detector could see; the keys of results/flag.json keep the numbers that chapters had then
    "features of chapter 20": measure_all,
    "with logarithms": lambda images: looks_of(images)[WITHOUT_RAW],
    "with raw statistics": lambda images: pd.concat([measure_all(images), looks_of(images)[RAW]], axis=1),
    "both, as shipped": looks_of,
}


def choices(galaxies, strangers):
    "What other choices of features would catch, and what each kind comes to when the choice is made on the other five"
    found = {}
    for name, features_of in VARIANTS.items():
        detector = OODDetector.fit(features_of(galaxies))
        found[name] = {kind: float(detector.flag(features_of(images)).mean()) for kind, images in strangers.items()}
    left_out = {}
    for kind in strangers:
        def least(name): return min(v for k, v in found[name].items() if k != kind)
        best = max(found, key=least)  # the first, simplest one of equals
        left_out[kind] = {"chosen on the others": best, "value": found[best][kind]}
    return {"variants": found, "leave_one_kind_out": left_out}


def about(looks, spirals, radius, strangers, names):
    "All numbers of the detector of one set of galaxies"
    detector = OODDetector.fit(looks)
    found = {"galaxies": len(looks), "threshold": float(detector.threshold),
             "false_flags_cross_validated": false_rate(looks), "caught": caught(detector, strangers, names)}
    if spirals is None: return found, detector
    plain, scaled = looks_of(spirals), looks_of(to_training_scale(spirals, radius))
    found["spirals_flagged"] = {"as they are": share(detector.flag(plain)),
                                "at the training scale": share(detector.flag(scaled)), "radius_px": radius}
    found["spirals_most_unlike"] = unlike(detector, scaled, looks)
    return found, detector


def unlike(detector, table, looks, n=6):
    "Medians of other galaxies that lie farthest from the training's, in units of its width"
    away = (table.median() - looks.median()) / detector.width
    farthest = away.abs().sort_values(ascending=False).index[:n]
    return {name: round(float(away[name]), 2) for name in farthest}


def galaxies_of(mock, real):
    "Images of each set of training galaxies, and the spirals"
    with tempfile.TemporaryDirectory() as folder:
        survey = make_mock(Path(folder) / "mock", n=mock, seed=5, workers=1)
        sets = {"mock": read_images(survey.image_files)}
    if real is None: return sets, None
    sets["real"] = read_images(read_survey(real / "sdss_sample").image_files)
    return sets, read_images(read_survey(real / "sdss_spirals").image_files)


def print_found(found):
    "The numbers of each detector, for a person"
    def shares(some): return {k: round(s["value"], 3) for k, s in some.items()}
    for sky, v in found.items():
        spirals = {k: s for k, s in v.get("spirals_flagged", {}).items() if k != "radius_px"}
        rate = v["false_flags_cross_validated"]["mean_of_seeds"]
        print(f"{sky}: {rate:.3f} of its own, cross-validated; spirals", shares(spirals))
        for kind, c in v["caught"].items(): print(f"    {kind:>16} {c['value']:.3f}", shares(c["varieties"]))
        chosen = v["choices"]["leave_one_kind_out"].items()
        without = {k: (c["chosen on the others"], round(c["value"], 3)) for k, c in chosen}
        print("    chosen without the kind:", without)


def main(args):
    strange_ones = {kind: strange(kind, args.n) for kind in KINDS}
    strangers = {kind: images for kind, (images, _) in strange_ones.items()}
    names = {kind: varieties for kind, (_, varieties) in strange_ones.items()}
    looks = {kind: looks_of(images) for kind, images in strangers.items()}
    sets, spirals = galaxies_of(args.mock, real_folder())
    found = {}
    for sky, images in sets.items():
        table = looks_of(images)
        radius = float(np.expm1(measure_all(images)["isophote_25"].median()))
        found[sky], detector = about(table, spirals, radius, looks, names)
        found[sky]["choices"] = choices(images, strangers)
    result = {"threshold": "2 % of held-out ordinary galaxies", "each_kind": args.n, "detectors": found}
    write_results(args.out, result, "share of images flagged as unlike the training galaxies")
    flagged = {kind: detector.flag(table) for kind, table in looks.items()}
    title = f"scored by a detector of {len(sets[sky]):,} {sky} galaxies; missed ones framed"
    save_figure(args.out.with_suffix(".png"), sheet(strangers, flagged, title), dpi=80)
    print_found(found)


if __name__ == "__main__":
    parser = option_parser(__doc__, out="flag.json")
    parser.add_argument("--n", type=int, default=400, help="images of each kind")
    parser.add_argument("--mock", type=int, default=1500, help="mock galaxies")
    main(parser.parse_args())
