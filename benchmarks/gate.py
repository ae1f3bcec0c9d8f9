"""Can color and shape tell galaxies without star formation from those that have a metallicity? A gate, tried.

    [GALAXY_CNN_REAL=FOLDER] python benchmarks/gate.py [--n 800] [--out results/gate.json]

No real galaxy without star formation is at hand whose class is known. So the mock draws some: galaxies of its own with
the colors of ellipticals, g - r = 0.77 and r - i = 0.39 at z = 0 (Fukugita et al. 1995, table 3), about 0.017 and 0.003
redder for each 0.01 of redshift and with a scatter of 0.04 mag; a bulge of 60 to 95 % of the light with a Sersic
index of 4; no arms, knots or bars. Gates: redder than a limit; a logistic regression of color and shape that has seen
one half of them; and the flag of the detector, which knows star-forming galaxies only. The limit of each is what 2 %
of the star-forming ones exceed. What the gate of the mock says of real galaxies that form stars (FOLDER/sdss_sample)
and of spirals (FOLDER/sdss_spirals) tells how far it carries. Writes results/gate.json and .png.
"""
import numpy as np
from flag import share
from harness import option_parser, real_folder, save_figure, write_results
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from galaxy_cnn.features import FEATURES, measure_images
from galaxy_cnn.figures import new_figure, panel_titles
from galaxy_cnn.images import read_images
from galaxy_cnn.mock_catalog import draw_catalog
from galaxy_cnn.mock_images import draw_cutout
from galaxy_cnn.ood import FALSE_FLAGS, OODDetector, Population, ood_features
from galaxy_cnn.run import initial_run
from galaxy_cnn.survey import read_survey

SEED = 31  # of the mock
GATE = [name for name, f in FEATURES.items() if f.group != "sky"]


def passive(catalog, rng):
    "Rows of a mock catalog as ellipticals: red, a bulge, no arms, knots or bars"
    n = len(catalog)
    gr = 0.77 + 1.7 * catalog["z"] + rng.normal(0, 0.04, n)
    ri = 0.39 + 0.3 * catalog["z"] + rng.normal(0, 0.03, n)
    changed = {f"{part}_true": 0.0 for part in ("arm_contrast", "clumps", "bar", "lopsided")}
    changed |= {"mag_g_true": catalog["mag_r_true"] + gr, "mag_i_true": catalog["mag_r_true"] - ri}
    changed |= {"bt_true": rng.uniform(0.6, 0.95, n), "bulge_n_true": 4.0, "axis_ratio_true": rng.uniform(0.5, 1, n)}
    return catalog.assign(**changed)


def drawn(catalog): return np.stack([draw_cutout(row, SEED) for row in catalog.to_dict("records")])


def caught(forming, dead, level=1 - FALSE_FLAGS):
    "AUC of a score, and the share of galaxies without star formation beyond what 2 % of the others exceed"
    score = np.r_[forming, dead]
    limit = np.quantile(forming, level)
    auc = roc_auc_score(np.r_[np.zeros(len(forming)), np.ones(len(dead))], score)
    return {"auc": float(auc), "limit": float(limit), "caught": share(dead > limit)}


def on_mock(n):
    "The three gates on mock galaxies: half of them teach, the other half is scored"
    catalog = draw_catalog(2 * n, SEED)
    images = {"forming": drawn(catalog.iloc[:n]), "passive": drawn(passive(catalog.iloc[n:], np.random.default_rng(0)))}
    seen, new = ({k: v[part] for k, v in images.items()} for part in (slice(n // 2), slice(n // 2, None)))
    table = {k: measure_images(v) for k, v in images.items()}
    def half(key, part): return table[key][GATE].to_numpy()[part]
    teach = np.concatenate([half(k, slice(n // 2)) for k in images])
    gate = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    gate.fit(teach, np.repeat([0, 1], n // 2))
    scores = {k: gate.decision_function(half(k, slice(n // 2, None))) for k in images}
    color = {k: table[k]["gr_total"].to_numpy()[n // 2:] for k in images}
    detector = OODDetector.fit(seen["forming"])
    flags = {k: detector.score(v) for k, v in new.items()}
    population = Population(detector)
    population.add(ood_features(new["passive"]))
    run = initial_run("pretrained")
    column = run.targets.index("oh_true")
    answers = {k: run.predict(v[:200]).mean[:, column] for k, v in new.items()}
    found = {
        "n": n // 2,
        "color": caught(color["forming"], color["passive"]),
        "color and shape": caught(scores["forming"], scores["passive"]),
        "flag": caught(flags["forming"], flags["passive"]),
        "distance_of_the_batch": population.shift(),
        "predicted_oh": {k: {"mean": float(v.mean()), "std": float(v.std()), "n": len(v)} for k, v in answers.items()},
    }
    return found, gate, scores


def on_real(real, gate, limit):
    "What the gate says of real galaxies that form stars, and of spirals"
    found, scores = {}, {}
    for name in ("sdss_sample", "sdss_spirals"):
        survey = read_survey(real / name)
        scores[name] = gate.decision_function(measure_images(read_images(survey.image_files))[GATE].to_numpy())
        found[name] = {"n": len(survey), "called_passive": share(scores[name] > limit),
                       "median_score": float(np.median(scores[name]))}
    return found, scores


def figure(scores, limit):
    "Distributions of the score of color and shape"
    fig = new_figure(7, 3.4)
    ax = fig.subplots()
    names = {"forming": "mock, star-forming", "passive": "mock, passive", "sdss_sample": "400 real, star-forming",
             "sdss_spirals": "2,000 real spirals"}
    bins = np.linspace(*np.quantile(np.concatenate(list(scores.values())), (0.002, 0.998)), 60)
    styles = (("k", "-"), ("C3", "-"), ("k", "--"), ("C0", ":"))
    for (key, values), (color, ls) in zip(scores.items(), styles):
        ax.hist(np.clip(values, bins[0], bins[-1]), bins, density=True, histtype="step", label=names[key], lw=1.4,
                color=color, ls=ls)
    ax.axvline(limit, c="0.5", lw=0.8)
    ax.set(xlabel="score of color and shape: larger, more like a galaxy without star formation", ylabel="density")
    ax.legend(fontsize=8, frameon=False)
    panel_titles(ax, "mock and real", "gate taught on the mock")
    return fig


def main(args):
    found, gate, scores = on_mock(args.n)
    found = {"mock": found}
    limit = found["mock"]["color and shape"]["limit"]
    if real := real_folder():
        found["real"], more = on_real(real, gate, limit)
        scores |= more
    write_results(args.out, found, "gates between galaxies with and without star formation")
    save_figure(args.out.with_suffix(".png"), figure(scores, limit))
    print(found)


if __name__ == "__main__":
    parser = option_parser(__doc__, out="gate.json")
    parser.add_argument("--n", type=int, default=800, help="mock galaxies of either kind")
    main(parser.parse_args())
