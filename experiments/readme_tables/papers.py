"""Tables of the papers behind the lecture."""

from experiments.feature_learning import methods
from experiments.readme_tables.markdown import provenance, read, scaled, table_of, with_spread


def feature_learning_table() -> str:
    """Returns the Markdown table of Rifai et al. 2011 with our numbers, and what follows."""
    found = read("feature_learning", "mnist", "metrics")
    header = ["", "chosen strength", "test error (%)", "published"]
    header += ["squared entry of the Jacobian (1e-4)", "published", "saturated units (%)"]
    header += ["published", "softmax on the code (%)", "5 nearest neighbours (%)"]
    header += ["two layers, test error (%)"]
    rows = []
    printed = methods.papers("mnist", 50_000, found["units"])
    for name, row in found["methods"].items():
        strength = "" if row["meaning_of_strength"] == "none" else f"{row['strength']:g}"
        paper = printed.get(name)
        published = ["", "", ""] if paper is None else [f"{value:g}" for value in paper]
        kinds = ["test_error", "jacobian_per_entry", "saturated", "probe_error"]
        kinds += ["neighbours_error", "stacked_test_error"]
        own = [with_spread(row[kind], ".2f") if kind in row else "" for kind in kinds]
        rows.append([name, strength, own[0], published[0], own[1], published[1], own[2]])
        rows[-1] += [published[2], *own[3:]]
    said = [f"- {'✓' if holds else '✗'} {what}" for what, holds in found["verdicts"].items()]
    return f"{_with_provenance('feature_learning', header, rows)}\n\n" + "\n".join(said)


def _with_provenance(name: str, header: list[str], rows: list[list[str]], align: str = "") -> str:
    """Returns a table of an experiment on MNIST below the line that says where it comes from."""
    return f"{provenance(name, 'mnist')}\n\n{table_of(header, rows, align)}"


def search_table() -> str:
    """Returns the Markdown table of what the validation error chose from; the choice is bold."""
    methods_found = read("feature_learning", "mnist", "metrics")["methods"]
    rates = list(dict.fromkeys(one["rate"] for one in methods_found["CAE"]["searched"]))
    header = ["", "strength", *[f"step size {rate:g}, validation error (%)" for rate in rates]]
    rows = []
    for name, row in methods_found.items():
        chosen = row["strength"], row["fine_tuning_rate"]
        by_strength: dict[float, list[str]] = {}
        for one in row["searched"]:
            error = with_spread(one["validation_error"], ".2f")
            is_chosen = (one["strength"], one["rate"]) == chosen
            by_strength.setdefault(one["strength"], []).append(
                f"**{error}**" if is_chosen else error
            )
        for i, (strength, errors) in enumerate(by_strength.items()):
            shown = "" if row["meaning_of_strength"] == "none" else f"{strength:g}"
            rows.append(["" if i else name, shown, *errors])
    return table_of(header, rows)


def published_table() -> str:
    """Returns the Markdown table of the rows that Rifai et al. 2011 print, ours beside theirs."""
    found = read("feature_learning", "mnist", "metrics")
    header = ["", "test error (%)", "published", "squared entry of the Jacobian (1e-4)"]
    header += ["published", "saturated units (%)", "published"]
    rows = []
    for name, paper in methods.papers("mnist", 50_000, found["units"]).items():
        row = found["methods"][name]
        rows.append([name])
        for kind, printed, style in (
            ("test_error", paper.test_error, ".2f"),
            ("jacobian_per_entry", paper.jacobian, ".2f"),
            ("saturated", paper.saturated, ".1f"),
        ):
            rows[-1] += [with_spread(row[kind], style), f"{printed:g}"]
    return _with_provenance("feature_learning", header, rows)


def images_table() -> str:
    """Returns the Markdown table of what a classifier sees in samples of images."""
    found = read("sampling", "mnist", "metrics")["images"]
    header = ["", "confidence (%)", "effective classes", "distance to the nearest training image"]
    header += ["chains that changed class (%)"]
    rows = [
        [
            name,
            with_spread(row["confidence"], ".1f"),
            with_spread(row["classes"], ".2f"),
            with_spread(row["nearest"], ".2f"),
            with_spread(row["left"], ".1f") if "left" in row else "",
        ]
        for name, row in found.items()
        if name not in ("classifier_test_error", "completion")
    ]
    said = found["completion"]
    completed, half = (with_spread(said[name], ".1f") for name in ("completed", "half"))
    after = (
        f"Of the test images whose lower half is completed, {completed} % have their class; with "
        f"that half black {half} %. The classifier errs on "
        f"{found['classifier_test_error']:.2f} % of the test images."
    )
    return f"{_with_provenance('sampling', header, rows)}\n\n{after}"


def sampling_table() -> str:
    """Returns the Markdown table of the distances of samples to the truth."""
    found = read("sampling", "mnist", "metrics")["mixture"]
    rows = [["other true samples", "", with_spread(found["true samples"], ".2f"), ""]]
    for name, learned in found["learned"].items():
        sampler, _, against = name.partition(", by ")
        length = list(found["learned"]["annealed Langevin"])[-1]
        held = {"": "", "noise": f", {length} steps", "length": ", noise 0.2"}[against]
        for i, (at, number) in enumerate(learned.items()):
            shown_at = f"noise {at}" if against == "noise" else f"{at} steps"
            cells = [with_spread(one, ".2f") for one in (number, found["exact"][name][at])]
            rows.append(["" if i else sampler + held, shown_at, *cells])
    return _with_provenance("sampling", ["", "", "learned score", "exact score"], rows)


def recovery_table() -> str:
    """Returns the Markdown table of the known atoms that dictionaries find again."""
    header = ["", "atoms per example", "recovered (%)", "mean max cosine", "active units"]
    header += ["dead units (%)"]
    rows = [
        [
            row["method"],
            str(row["active_atoms"]),
            with_spread(scaled(row["recovered_share"], 100), ".1f"),
            with_spread(row["mean_max_cosine"], ".3f"),
            with_spread(row["active_units"], ".1f"),
            with_spread(scaled(row["dead_share"], 100), ".1f"),
        ]
        for row in read("dictionary", "mnist", "metrics")["recovery"]
    ]
    return _with_provenance("dictionary", header, rows)


def frontier_table() -> str:
    """Returns the Markdown table of dictionaries of patches."""
    header = ["", "lambda or k", "explained variance (%)", "active units", "dead units (%)"]
    rows = [
        [
            row["method"],
            f"{row['setting']:g}",
            with_spread(scaled(row["explained_variance"], 100), ".1f"),
            with_spread(row["active_units"], ".1f"),
            with_spread(scaled(row["dead_share"], 100), ".1f"),
        ]
        for row in read("dictionary", "mnist", "metrics")["frontier"]
    ]
    return _with_provenance("dictionary", header, rows)


# SynthSAEBench at its own size, 200 million examples and 25 active units: F1, mean correlation,
# explained variance.
PUBLISHED_DICTIONARIES = {
    "Matryoshka": (0.879, 0.793, 0.779),
    "BatchTopK": (0.732, 0.757, 0.792),
    "JumpReLU": (0.732, 0.753, 0.795),
    "L1": (0.556, 0.604, 0.765),
}


def known_truth_table() -> str:
    """Returns the Markdown table of dictionaries of a synthetic truth, the best F1 first."""
    header = ["", "active units", "F1", "mean correlation", "explained variance", "published"]
    found = read("dictionary", "mnist", "metrics")["known_truth"]
    numbers = ("f1", "mean_correlation", "explained_variance")
    rows = [
        [
            row["method"],
            with_spread(row["active_units"], ".1f"),
            *(with_spread(row[name], ".3f") for name in numbers),
            ", ".join(f"{n:g}" for n in PUBLISHED_DICTIONARIES.get(row["method"], ())),
        ]
        for row in sorted(found, key=lambda row: (row["target"], -row["f1"]["mean"]))
    ]
    return _with_provenance("dictionary", header, rows)


def filters_table() -> str:
    """Returns the Markdown table of filters against the corruption level."""
    header = ["masked", "beta", "roughness", "effective pixels", "softmax on the code, error (%)"]
    rows = [
        [
            f"{row['level']:g}",
            f"{row['beta']:g}",
            with_spread(row["roughness"], ".3f"),
            with_spread(row["extent"], ".0f"),
            with_spread(row["probe_error"], ".2f"),
        ]
        for row in read("filters", "mnist", "metrics")["networks"]
    ]
    return _with_provenance("filters", header, rows, "rrrrr")
