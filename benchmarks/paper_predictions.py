"""The metrics and figures of this package on the predictions of Wu & Boada (2019) for 20,366 real galaxies.

    GALAXY_CNN_REAL=FOLDER python benchmarks/paper_predictions.py

FOLDER holds facts/wu_boada_2019_test_predictions.csv: objID, oh_p50 and the network's prediction from cutouts of 128,
64, 32 and 16 px, from the history of the authors' repository. No network is trained or run here: it is a test of the
yardstick. Writes results/paper_predictions.json (every metric with n and its 95 % bootstrap interval) and
results/paper_predictions.png (predicted against observed at 128 px).
"""
import pandas as pd
from harness import RESULTS, option_parser, real_folder, save_figure, write_results

from galaxy_cnn.figures import density_figure
from galaxy_cnn.metrics import BOOTSTRAP_LEVEL, N_BOOT, paired_difference, rmse, scores

PUBLISHED = "facts/wu_boada_2019_test_predictions.csv"
SIZES = (128, 64, 32, 16)  # [px]
RICH = 9.1  # 12 + log(O/H), above which the paper counts the share of galaxies


def published_predictions(real):
    "Table of the paper's test galaxies, from the folder of the real galaxies"
    return pd.read_csv(real / PUBLISHED, dtype={"objID": "int64"})


def measure(table):
    "All numbers, by size of the cutout"
    true = table["oh_p50"].to_numpy()
    pred = {px: table[f"pred_{px}"].to_numpy() for px in SIZES}
    found = {str(px): {**scores(true, p), "share_above_9.1": float((p > RICH).mean())} for px, p in pred.items()}
    for px in SIZES[1:]: found[str(px)]["rmse_minus_128_px"] = paired_difference(rmse, true, pred[px], pred[128])
    return found


def main(real):
    table = published_predictions(real)
    true, found = table["oh_p50"].to_numpy(), measure(table)
    result = {"bootstrap": {"resamples": N_BOOT, "level": BOOTSTRAP_LEVEL, "unit": "galaxy"},
              "observed_share_above_9.1": float((true > RICH).mean()), "by_size_px": found}
    what = "predictions of Wu & Boada 2019 (one network per size, not the ensemble), 12 + log(O/H) [dex]"
    write_results(RESULTS / "paper_predictions.json", result, what, "real", len(table))
    pred, note = table["pred_128"].to_numpy(), "predictions of Wu & Boada 2019, 128 px"
    save_figure(RESULTS / "paper_predictions.png", density_figure(true, pred, sky="SDSS, real", note=note))
    for px, v in found.items():
        values = v["rmse"]["value"], v["nmad"]["value"], v["median_bias"]["value"]
        print("{:>4} px  RMSE {:.4f}  NMAD {:.4f}  median {:+.4f}".format(px, *values))


if __name__ == "__main__":
    option_parser(__doc__).parse_args()
    main(real_folder(PUBLISHED))
