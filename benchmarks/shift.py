"""What is said of pictures that another survey, a slip or the Galaxy has changed, and what that does to predictions.

    GALAXY_CNN_REAL=FOLDER python benchmarks/shift.py [--work runs/shift] [--mock 2000] [--out results/shift.json]

The shipped defaults are trained on 218 of the 400 real galaxies in FOLDER/sdss_sample. The pictures of the other
182 are changed in memory, predicted, and compared with the training galaxies as `galaxy-cnn predict` compares them.
How often a change is announced, and how often there is none and yet something is announced: batches of 50 and 200
real galaxies that are no part of the training ones, in 300 random halvings of the 400; of 50, 200 and 1,000 mock
galaxies, for 1,000 of the real ones are not there; and of the 2,000 spirals in FOLDER/sdss_spirals. The halvings are of
the same 400 galaxies and overlap: rates are those of this sample, and their intervals, which take batches as
independent, are too narrow. Writes results/shift.json and .png; twelve minutes of one core, training included.
"""
from io import BytesIO

import numpy as np
import pandas as pd
from flag import share
from harness import option_parser, real_folder, save_figure, write_results
from PIL import Image
from real_sample import part
from scipy.ndimage import gaussian_filter

from galaxy_cnn.figures import new_figure
from galaxy_cnn.images import read_images
from galaxy_cnn.literature import REDDENING
from galaxy_cnn.metrics import bootstrap, rmse
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.ood import OODDetector, Population, explain_shift, ood_features
from galaxy_cnn.run import read_run
from galaxy_cnn.survey import read_survey
from galaxy_cnn.train import train
from galaxy_cnn.uncertainty import ErrorModel

TRAINED, BIAS = 218, 0.03  # galaxies; [dex] above which a change must be announced
HALVINGS = 300  # of the real galaxies


# ---- what happens to pictures: written here once more, apart from the corrections that the package seeks

def levels(images, factor): return np.clip(np.rint(images * factor), 0, 255).astype("uint8")


def reddened(images, ebv):
    "The color of a reddening E(B-V) [mag]; the mean level stays"
    loss = 10 ** (-0.4 * ebv * np.array(REDDENING))
    return levels(images, loss / loss.mean())


def blurred(images, width): return levels(gaussian_filter(images.astype("float32"), (0, width, width, 0)), 1)


def noisy(images, rms): return levels(images + np.random.default_rng(0).normal(0, rms, images.shape), 1)


def wider(images, factor):
    "A field so many times as wide, as of a galaxy whose R90 was taken too large; beyond the edge the sky is mirrored"
    n = images.shape[1]
    size = round(n / factor)
    found = np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BICUBIC)) for i in images])
    if size >= n: return found[:, (size - n) // 2:, (size - n) // 2:][:, :n, :n]
    before, after = (n - size) // 2, n - size - (n - size) // 2
    return np.pad(found, ((0, 0), (before, after), (before, after), (0, 0)), "reflect")


def gray(images, share):
    "Colors taken away in part (1: entirely)"
    return levels(images + share * (images.mean(3, keepdims=True) - images), 1)


def jpeg(images, quality):
    "The pictures after one more compression"
    found = []
    for image in images:
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(buffer)))
    return np.stack(found)


def reordered(images, order): return images[..., [int(k) for k in order]]


CHANGES = {  # three strengths of each
    "reddening E(B-V) [mag]": (reddened, (0.03, 0.1, 0.3)),
    "levels, lower x": (levels, (0.9, 0.8, 0.6)),
    "levels, higher x": (levels, (1.1, 1.25, 1.6)),
    "blur [px]": (blurred, (0.5, 1, 2)),
    "R90 too large x": (wider, (1.1, 1.2, 1.5)),
    "R90 too small x": (wider, (0.9, 0.8, 0.6)),
    "noise [levels]": (noisy, (1, 2, 4)),
    "band order": (reordered, ("210", "102", "021")),
    "gray": (gray, (0.3, 0.6, 1)),
    "JPEG quality": (jpeg, (75, 50, 30)),
}


def changed(images):
    "Name, strength and pictures of each change, none first"
    yield "none", "", images
    for name, (change, strengths) in CHANGES.items():
        for strength in strengths: yield name, strength, change(images, strength)


# ---- what it does to predictions

def split_run(survey, work):
    "A Run of the shipped defaults on some of the galaxies, and the others"
    order = np.random.default_rng(0).permutation(len(survey))
    out = work / "run"
    if not (out / "detector.npz").is_file():
        train(part(survey, np.sort(order[:TRAINED]), work / "part"), out, resume=True)
    return read_run(out), np.sort(order[TRAINED:])


def predicted(run, errors, truth, images):
    "Bias, RMSE and coverage against the labels, share of pictures flagged, and what is said of all of them"
    table = ood_features(images)
    rows = run.predict(images).to_table(run.targets, errors, errors.detector.flag(table))
    error = rows["metallicity_pred"].to_numpy() - truth
    held = (rows["metallicity_lo90"] <= truth) & (truth <= rows["metallicity_hi90"])
    population = Population(errors.detector)
    population.add(table)
    found = {"rmse": bootstrap(lambda e: rmse(e, 0 * e), error), "coverage_90": share(held),
             "flagged": share(rows["flag"]), "distance": population.shift(), "announced": population.shift() > 1}
    if found["announced"]:
        shift = explain_shift(population, images[::5])
        found |= {"kind": shift.kind, "text": shift.text}
    return rows["metallicity_pred"].to_numpy(), found


def effects(survey, work):
    "What each change of the held-out pictures does, beside the predictions for the pictures as they are"
    run, rows = split_run(survey, work)
    errors = ErrorModel.load(run.path)
    truth = survey.catalog["oh_p50"].to_numpy()[rows]
    images = read_images([survey.image_files[i] for i in rows])
    plain, found = None, []
    for name, strength, pictures in changed(images):
        answer, about = predicted(run, errors, truth, pictures)
        if plain is None: plain = answer
        moved = bootstrap(lambda d: d.mean(-1), answer - plain)
        found.append({"change": name, "strength": strength, "shift_dex": moved, **about})
        passed = abs(moved["value"]) <= BIAS or about["announced"]
        found[-1]["pass"] = bool(passed)
        print(f"{name} {strength}: {moved['value']:+.3f} dex, 90 % hold {about['coverage_90']['value']:.2f}, "
              f"distance {about['distance']:.2f} {about.get('text', '').split(': ', 1)[-1]}", flush=True)
    return found


# ---- how often it is announced

def rates(known, others, sizes, halvings, draws, seed=0):
    "Share of batches announced, by change, strength and size; `known` and `others` are tables, or functions of a seed"
    counts = {}
    for k in range(halvings):
        detector, tables = known(k), others(k)
        population = Population(detector)
        rng = np.random.default_rng([seed, k])
        values = {key: population.standardize(table) for key, table in tables.items()}
        for n in sizes:
            population.n = n
            there = len(values["none", ""])
            for _ in range(draws if n < there else 1):  # all of them can be drawn once only
                rows = rng.permutation(there)[:n]
                for key, v in values.items():
                    counts.setdefault((*key, n), []).append(population.distance(v[rows].mean(0)) > 1)
    return [{"change": c, "strength": s, "galaxies": n, "announced": share(v)} for (c, s, n), v in counts.items()]


def tables_of(images): return {(name, strength): ood_features(pictures) for name, strength, pictures in changed(images)}


def real_rates(survey):
    "Of batches of the real galaxies: each half in turn is known, and the other half is drawn from"
    tables = tables_of(read_images(survey.image_files))
    def order(k): return np.random.default_rng(k).permutation(len(survey))
    def known(k): return OODDetector.fit(tables["none", ""].iloc[order(k)[:200]])
    def others(k): return {key: table.iloc[order(k)[200:]] for key, table in tables.items()}
    return rates(known, others, (50, 200), halvings=HALVINGS, draws=5)


def mock_rates(n, work):
    "Of batches of mock galaxies, of which the first 400 are known"
    if not (work / "mock").exists(): make_mock(work / "mock", n=n, seed=7, workers=1)
    survey = read_survey(work / "mock")
    images = read_images(survey.image_files)
    detector, tables = OODDetector.fit(ood_features(images[:400])), tables_of(images[400:])
    return rates(lambda k: detector, lambda k: tables, (50, 200, 1000), halvings=1, draws=200)


def spirals_told(survey, spirals):
    "What is said of real galaxies of another selection and scale"
    population = Population(OODDetector.fit(read_images(survey.image_files)))
    images = read_images(spirals.image_files)
    population.add(ood_features(images))
    shift = explain_shift(population, images[::40])
    return {"n": population.n, "distance": shift.distance, "kind": shift.kind, "text": shift.text, "left": shift.left}


# ---- figure and main

def figure(found):
    "Bias against distance, and the share of batches announced"
    fig = new_figure(10, 4.2)
    left, right = fig.subplots(1, 2)
    for row in found["effects"]:
        color = "k" if row["change"] == "none" else "C0" if row["announced"] else "C3"
        v = row["shift_dex"]
        left.errorbar(row["distance"], abs(v["value"]), (v["hi"] - v["lo"]) / 2, fmt="o", c=color, ms=4, lw=0.8)
    left.axvline(1, c="k", ls="--", lw=0.8)
    left.axhline(BIAS, c="k", ls=":", lw=0.8)
    left.set(xscale="log", yscale="symlog", xlabel="distance from the training galaxies / what chance allows",
             ylabel="|mean change of 12 + log(O/H)| [dex]", ylim=(0, 1), title="182 real galaxies, each change once")
    left.set_yscale("symlog", linthresh=0.02)
    rows = pd.DataFrame([r | {"share": r["announced"]["value"]} for r in found["rates"]["real"]])
    rows["label"] = rows["change"] + " " + rows["strength"].astype(str)
    wide = rows.pivot(index="label", columns="galaxies", values="share").loc[rows["label"].unique()]
    shown = right.imshow(wide, aspect="auto", cmap="Blues", vmin=0, vmax=1)
    right.set(xticks=range(2), xticklabels=[f"n = {n}" for n in wide], yticks=range(len(wide)))
    right.set_title("announced (real)")
    right.set_yticklabels(wide.index, fontsize=6)
    fig.colorbar(shown, ax=right, label="share of batches")
    return fig


def main(args):
    real = real_folder("sdss_sample and sdss_spirals")
    survey, spirals = (read_survey(real / name) for name in ("sdss_sample", "sdss_spirals"))
    found = {
        "trained_on": TRAINED,
        "announce_above_dex": BIAS,
        "halvings": HALVINGS,
        "effects": effects(survey, args.work),
    }
    found["rates"] = {"real": real_rates(survey), "mock": mock_rates(args.mock, args.work)}
    found["spirals"] = spirals_told(survey, spirals)
    false = [r for rows in found["rates"].values() for r in rows if r["change"] == "none"]
    found["pass"] = {"every bias above the limit is announced": all(r["pass"] for r in found["effects"]),
                     "false alarms": all(r["announced"]["value"] <= 0.01 for r in false)}
    write_results(args.out, found, "what is said of changed pictures, and what the change does to predictions")
    save_figure(args.out.with_suffix(".png"), figure(found))
    print(found["pass"], found["spirals"])


if __name__ == "__main__":
    parser = option_parser(__doc__, out="shift.json", work="runs/shift")
    parser.add_argument("--mock", type=int, default=2000, help="mock galaxies")
    main(parser.parse_args())
