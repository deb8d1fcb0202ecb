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
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    printed = methods.papers("mnist", 50_000, found["units"])
    for name, row in found["methods"].items():
        strength = "" if row["meaning_of_strength"] == "none" else f"{row['strength']:g}"
        paper = printed.get(name)
        published = ["", "", ""] if paper is None else [f"{value:g}" for value in paper]
        kinds = ["test_error", "jacobian_per_entry", "saturated", "probe_error"]
        kinds += ["neighbours_error", "stacked_test_error"]
        own = [with_spread(row[kind], ".2f") if kind in row else "" for kind in kinds]
        lines.append([name, strength, own[0], published[0], own[1], published[1], own[2]])
        lines[-1] += [published[2], *own[3:]]
    said = [f"- {'✓' if holds else '✗'} {what}" for what, holds in found["verdicts"].items()]
    newline = "\n"
    table = table_of(lines)
    return f"{provenance('feature_learning', 'mnist')}\n\n{table}\n\n{newline.join(said)}"


def search_table() -> str:
    """Returns the Markdown table of what the validation error chose from; the choice is bold."""
    methods_found = read("feature_learning", "mnist", "metrics")["methods"]
    rates = list(dict.fromkeys(one["rate"] for one in methods_found["CAE"]["searched"]))
    header = ["", "strength", *[f"step size {rate:g}, validation error (%)" for rate in rates]]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
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
            lines.append(["" if i else name, shown, *errors])
    return table_of(lines)


def published_table() -> str:
    """Returns the Markdown table of the rows that Rifai et al. 2011 print, ours beside theirs."""
    found = read("feature_learning", "mnist", "metrics")
    header = ["", "test error (%)", "published", "squared entry of the Jacobian (1e-4)"]
    header += ["published", "saturated units (%)", "published"]
    lines = [header, ["---", *["---:"] * 6]]
    for name, paper in methods.papers("mnist", 50_000, found["units"]).items():
        row = found["methods"][name]
        lines.append([name])
        for kind, printed, style in (
            ("test_error", paper.test_error, ".2f"),
            ("jacobian_per_entry", paper.jacobian, ".2f"),
            ("saturated", paper.saturated, ".1f"),
        ):
            lines[-1] += [with_spread(row[kind], style), f"{printed:g}"]
    return f"{provenance('feature_learning', 'mnist')}\n\n{table_of(lines)}"


def images_table() -> str:
    """Returns the Markdown table of what a classifier sees in samples of images."""
    found = read("sampling", "mnist", "metrics")["images"]
    header = ["", "confidence (%)", "effective classes", "distance to the nearest training image"]
    header += ["chains that changed class (%)"]
    lines = [header, ["---", *["---:"] * 4]]
    for name, row in found.items():
        if name in ("classifier_test_error", "completion"):
            continue
        numbers = [with_spread(row["confidence"], ".1f"), with_spread(row["classes"], ".2f")]
        numbers += [with_spread(row["nearest"], ".2f")]
        lines.append([name, *numbers, with_spread(row["left"], ".1f") if "left" in row else ""])
    said = found["completion"]
    completed, half = (with_spread(said[name], ".1f") for name in ("completed", "half"))
    after = (
        f"Of the test images whose lower half is completed, {completed} % have their class; with "
        f"that half black {half} %. The classifier errs on "
        f"{found['classifier_test_error']:.2f} % of the test images."
    )
    return f"{provenance('sampling', 'mnist')}\n\n{table_of(lines)}\n\n{after}"


def sampling_table() -> str:
    """Returns the Markdown table of the distances of samples to the truth."""
    found = read("sampling", "mnist", "metrics")["mixture"]
    lines = [["", "", "learned score", "exact score"], ["---", "---:", "---:", "---:"]]
    lines.append(["other true samples", "", with_spread(found["true samples"], ".2f"), ""])
    for name, learned in found["learned"].items():
        sampler, _, against = name.partition(", by ")
        length = list(found["learned"]["annealed Langevin"])[-1]
        held = {"": "", "noise": f", {length} steps", "length": ", noise 0.2"}[against]
        for i, (at, number) in enumerate(learned.items()):
            shown_at = f"noise {at}" if against == "noise" else f"{at} steps"
            cells = [with_spread(one, ".2f") for one in (number, found["exact"][name][at])]
            lines.append(["" if i else sampler + held, shown_at, *cells])
    return f"{provenance('sampling', 'mnist')}\n\n{table_of(lines)}"


def recovery_table() -> str:
    """Returns the Markdown table of the known atoms that dictionaries find again."""
    header = ["", "atoms per example", "recovered (%)", "mean max cosine", "active units"]
    header += ["dead units (%)"]
    lines = [header, ["---", *["---:"] * 5]]
    for row in read("dictionary", "mnist", "metrics")["recovery"]:
        recovered, dead = (
            with_spread(scaled(row[name], 100), ".1f") for name in ("recovered_share", "dead_share")
        )
        lines.append(
            [
                row["method"],
                str(row["active_atoms"]),
                recovered,
                with_spread(row["mean_max_cosine"], ".3f"),
                with_spread(row["active_units"], ".1f"),
                dead,
            ]
        )
    return f"{provenance('dictionary', 'mnist')}\n\n{table_of(lines)}"


def frontier_table() -> str:
    """Returns the Markdown table of dictionaries of patches."""
    header = ["", "lambda or k", "explained variance (%)", "active units", "dead units (%)"]
    lines = [header, ["---", *["---:"] * 4]]
    for row in read("dictionary", "mnist", "metrics")["frontier"]:
        lines.append(
            [
                row["method"],
                f"{row['setting']:g}",
                with_spread(scaled(row["explained_variance"], 100), ".1f"),
                with_spread(row["active_units"], ".1f"),
                with_spread(scaled(row["dead_share"], 100), ".1f"),
            ]
        )
    return f"{provenance('dictionary', 'mnist')}\n\n{table_of(lines)}"


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
    lines = [header, ["---", *["---:"] * 5]]
    rows = read("dictionary", "mnist", "metrics")["known_truth"]
    for row in sorted(rows, key=lambda row: (row["target"], -row["f1"]["mean"])):
        published = PUBLISHED_DICTIONARIES.get(row["method"], ())
        lines.append(
            [
                row["method"],
                with_spread(row["active_units"], ".1f"),
                *(
                    with_spread(row[name], ".3f")
                    for name in ("f1", "mean_correlation", "explained_variance")
                ),
                ", ".join(f"{number:g}" for number in published),
            ]
        )
    return f"{provenance('dictionary', 'mnist')}\n\n{table_of(lines)}"


def filters_table() -> str:
    """Returns the Markdown table of filters against the corruption level."""
    header = ["masked", "beta", "roughness", "effective pixels", "softmax on the code, error (%)"]
    lines = [header, ["---:"] * 5]
    for row in read("filters", "mnist", "metrics")["networks"]:
        lines.append(
            [
                f"{row['level']:g}",
                f"{row['beta']:g}",
                with_spread(row["roughness"], ".3f"),
                with_spread(row["extent"], ".0f"),
                with_spread(row["probe_error"], ".2f"),
            ]
        )
    return f"{provenance('filters', 'mnist')}\n\n{table_of(lines)}"
