"""What the table must show, as true or false, from its numbers alone."""

from collections.abc import Mapping

from experiments.common.results.over_seeds import Metrics
from experiments.feature_learning.methods import Papers

MARGIN = 0.25  # percentage points above the published error


def of(rows: Mapping[str, Metrics], papers: Papers) -> dict[str, bool]:
    """Returns which statements about the table hold; those about missing rows are left out."""
    errors = {name: row["test_error"]["mean"] for name, row in rows.items()}
    printed = {name: paper for name, paper in papers.items() if name in rows}
    found = {
        f"{name}: at most {MARGIN} points above the published error": bool(
            errors[name] <= paper.test_error + MARGIN
        )
        for name, paper in printed.items()
    }
    for name in ("CAE", "DAE-g"):
        if {name, "AE"} <= rows.keys():
            found[f"{name} errs less than AE"] = bool(errors[name] < errors["AE"])
    if len(printed) > 1:
        order = sorted(printed, key=lambda name: printed[name].test_error)
        ours = sorted(printed, key=lambda name: errors[name])
        found["order of the test errors: " + " < ".join(order)] = order == ours
        order = sorted(printed, key=lambda name: printed[name].jacobian)
        ours = sorted(printed, key=lambda name: rows[name]["jacobian_norm"]["mean"])
        found["order of the Jacobian norms: " + " < ".join(order)] = order == ours
    return found
