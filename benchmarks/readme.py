"""Write the results of the README from the files in results/.

    python benchmarks/readme.py [--demo runs/demo]     # --demo: take the numbers of that Run first (results/demo.json and its figures)
"""
import argparse
import shutil
from pathlib import Path

from galaxy_cnn.evaluate import with_interval
from galaxy_cnn.survey import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"mean": "predict the mean", "ridge": "ridge, image features", "random_forest": "random forest, g r i magnitudes",
         "random_forest_image": "random forest, image features", "gaussian_process": "Gaussian process, image features"}


def take_demo(run, results):
    "Keep the numbers and two figures of a demo Run"
    card = read_json(run / "model.json")
    kept = {k: card[k] for k in ("arch", "precision", "device", "threads", "wall_seconds", "versions")} | {"epochs": card["recipe"]["epochs"], "galaxies": card["survey"]["n"]}
    write_json(results / "demo.json", {**read_json(run / "metrics.json"), "run": kept})
    for figure in ("density", "mzr"): shutil.copy(run / "figures" / f"{figure}.png", results / f"demo_{figure}.png")


def rows(label, arch, found, paired):
    "Table rows: the network, then each baseline with the paired difference"
    yield f"| {label} | **CNN ({arch})** | {found['cnn']['rmse']['n']} | **{with_interval(found['cnn']['rmse'])}** | {with_interval(found['cnn']['nmad'])} | {with_interval(found['cnn']['median_bias'], sign='+')} | |"
    for name, v in found["baselines"].items():
        yield f"| | {NAMES[name]} | {v['rmse']['n']} | {with_interval(v['rmse'])} | {with_interval(v['nmad'])} | {with_interval(v['median_bias'], sign='+')} | {with_interval(paired[name]['rmse'], sign='+')} |"


def section(results):
    "The README's results as Markdown"
    demo, real, paper = (read_json(results / f"{n}.json") for n in ("demo", "real_sample", "paper_predictions"))
    mock, first, net = demo["targets"]["metallicity"], real["runs"][0], paper["by_size_px"]["128"]
    over, mzr = real["rmse_over_seeds"]["cnn"], demo["mzr"]
    lines = ["RMSE, NMAD and median bias in dex with 95 % bootstrap intervals; the last column is the paired difference of the RMSE on the same galaxies.", "",
             "| galaxies | model | n | RMSE | NMAD | median bias | CNN minus it |", "|---|---|---|---|---|---|---|",
             f"| real, the paper's own predictions | **resnet34, 96,000 labels (2019)** | {paper['n']:,} | **{with_interval(net['rmse'])}** | {with_interval(net['nmad'])} | {with_interval(net['median_bias'], sign='+')} | |",
             *rows("real, 400 labels, 5-fold cross-validation", first["arch"], first, first["cnn_minus"]),
             *rows(f"mock, {demo['run']['galaxies']:,} galaxies, test split by sky cell (`make demo`)", demo["arch"], mock, mock["cnn_minus"]),
             f"| | label noise: no model can do better | {mock['label_noise']['n']} | {with_interval(mock['label_noise'])} | | | |", "",
             f"Over {len(real['runs'])} seeds (other folds, other initial weights) the CNN on the real 400 has RMSE {over['mean']:.4f} ({over['lowest']:.4f} to {over['highest']:.4f}); "
             f"the first is in the table. There is no random forest on magnitudes there, because that sample has none. `galaxy-cnn train` takes "
             f"{first['train_seconds']} s for its five networks on {real['cores']} cores without a GPU. Made by `benchmarks/real_sample.py`, `benchmarks/paper_predictions.py` and `make demo`.", "",
             "With a few hundred or thousand labels a network from scratch is not ahead of a Gaussian process on 58 features measured in the image; what 96,000 labels buy is in the first row.", ""]
    return lines + mzr_lines(mzr)


def mzr_lines(mzr):
    "The relation of the demo in a sentence and a picture"
    at = mzr["fixed_mass"]
    return [f"The mass-metallicity relation of the mock sky: scatter about Tremonti et al. (2004) {with_interval(mzr['observed']['tremonti04']['all']['rmse'])} dex observed, "
            f"{with_interval(mzr['predicted']['tremonti04']['all']['rmse'])} dex predicted. At fixed mass the prediction follows the metallicity with a partial correlation "
            f"of {with_interval(at['partial_correlation'], 2)}: on the mock, what the picture shows beyond mass was put there by the simulation.", "",
            "| what the network predicts (mock) | the relation it implies (mock) | the same recipe, cross-validated on 400 real galaxies |", "|---|---|---|",
            "| ![predicted against true, mock](results/demo_density.png) | ![mass-metallicity relation, mock](results/demo_mzr.png) | ![predicted against true, real](results/real_density.png) |"]


def downloads(results):
    "What was measured of downloads, as Markdown"
    speed, kills, bad, rows = (read_json(results / f"{n}.json") for n in ("download", "kill_download", "corrupt_survey", "catalog_roundtrip"))
    ours, serial = speed["rates"]["galaxy_cnn"], speed["rates"]["serial requests.get"]
    return [f"- With {speed['rates']['latency_s'] * 1000:.0f} ms of latency and {speed['rates']['connections']} connections: {ours['per_second']:.0f} cutouts a second, "
            f"{speed['rates']['galaxy_cnn_of_ceiling']:.0%} of what latency allows; a loop of `requests.get` does {serial['per_second']:.1f}.",
            f"- {kills['kills']} downloads killed at random instants and resumed: {kills['total']['identical']} complete and identical, {kills['total']['fetched_again']} recorded cutouts fetched again.",
            f"- {bad['total']['corruptions']} random corruptions of images, catalog and record: {bad['total']['missed']} missed by `verify`, {bad['total']['rounds_healed']} of {bad['total']['rounds']} Surveys healed.",
            f"- A catalog of {rows['rows']:,} rows and {rows['columns']} columns there and back, three cut streams on the way: {rows['wrong_values']} wrong values."]


def with_results(readme, results):
    "The README's text with its results written anew"
    for name, make in {"results": section, "downloads": downloads}.items():
        before, rest = readme.split(f"<!-- {name} -->")
        readme = f"{before}<!-- {name} -->\n" + "\n".join(make(results)) + f"\n<!-- /{name} -->" + rest.split(f"<!-- /{name} -->")[1]
    return readme


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path)
    args = parser.parse_args()
    if args.demo: take_demo(args.demo, ROOT / "results")
    file = ROOT / "README.md"
    file.write_text(with_results(file.read_text(), ROOT / "results"))
