"""How well can any picture of the mock sky say the metallicity? The best regression of what pictures are drawn from.

    python benchmarks/mock_floor.py [--n 40000] [--seed 0] [--out results/mock_floor.json]

Gradient boosting on the noise-free properties of galaxies of the mock catalog: mass, star formation rate, size, axis
ratio, bulge, colors and dust. A network sees these only through pixels and noise, so it can hardly do better: against
the labels this is the floor that matters, far above the noise of the labels. Without colors and dust it shows how much
of the metallicity the colors were made to carry. No pictures are drawn; a minute on one core.
"""
from harness import option_parser, write_results
from sklearn.ensemble import HistGradientBoostingRegressor

from galaxy_cnn.metrics import bootstrap, rmse
from galaxy_cnn.mock_catalog import draw_catalog

SHAPE = ["lgm_true", "sfr_true", "re_kpc_true", "axis_ratio_true", "bt_true", "disc_n_true"]
COLOR = ["g_r", "r_i", "av_true"]


def predicted(catalog, columns, target, train):
    "Predictions for the galaxies that are not trained on"
    model = HistGradientBoostingRegressor(max_iter=400, learning_rate=0.05, early_stopping=True, random_state=0)
    model.fit(catalog.loc[train, columns], catalog.loc[train, target])
    return model.predict(catalog.loc[~train, columns])


def main(args):
    catalog = draw_catalog(args.n, seed=args.seed)
    catalog["g_r"] = catalog.mag_g_true - catalog.mag_r_true
    catalog["r_i"] = catalog.mag_r_true - catalog.mag_i_true
    train = catalog.index < 0.7 * args.n
    labels, truth = (catalog.loc[~train, c] for c in ("oh_p50", "oh_true"))
    pred = predicted(catalog, SHAPE + COLOR, "oh_p50", train)
    found = {
        "picture_floor": bootstrap(rmse, labels, pred),
        "against_truth": bootstrap(rmse, truth, predicted(catalog, SHAPE + COLOR, "oh_true", train)),
        "without_colors": bootstrap(rmse, labels, predicted(catalog, SHAPE, "oh_p50", train)),
        "mass_alone": bootstrap(rmse, labels, predicted(catalog, ["lgm_true"], "oh_p50", train)),
        "label_noise": bootstrap(rmse, labels, truth),
    }
    what = "RMSE of 12 + log(O/H) [dex] of gradient boosting on noise-free properties of mock galaxies"
    write_results(args.out, {"trained_on": int(train.sum()), **found}, what, "mock", args.n)
    for name, v in found.items(): print(f"{name:16} {v['value']:.4f} ({v['lo']:.4f}, {v['hi']:.4f}), n = {v['n']:,}")


if __name__ == "__main__":
    parser = option_parser(__doc__, out="mock_floor.json", seed=0)
    parser.add_argument("--n", type=int, default=40_000, help="galaxies; seven tenths of them train")
    main(parser.parse_args())
