"""docs/contraction.md against the code: names, constants, the worked example, measured numbers."""

import importlib
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxae
from jaxae.contraction import _evaluate, _trace

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "contraction.md").read_text(encoding="utf-8")
RESULTS = ROOT / "experiments" / "benchmarks" / "results"
FOLDER = ROOT / "jaxae" / "contraction"


def rows_below(title):
    """Returns the cells of the first table below a title of the page, without the head."""
    section = PAGE.split(f"\n## {title}\n")[1]
    rows = re.search(r"(?:^\| .*\n)+", section, re.MULTILINE)[0].splitlines()
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def module_named(file):
    assert (FOLDER / file).exists(), file
    return importlib.import_module(f"jaxae.contraction.{file.removesuffix('.py')}")


def test_every_name_is_defined_in_its_file():
    names = rows_below("Names")
    assert len(names) > 20
    for name, file, _ in names:
        value = getattr(module_named(file), name)
        assert getattr(value, "__module__", module_named(file).__name__).endswith(file[:-3]), name


def test_every_constant_has_its_value():
    constants = rows_below("Constants")
    for name, value, file, _ in constants:
        got = getattr(module_named(file), name)
        assert got == eval(value, {"MiB": 2**20, **vars(module_named(file))}), name
    # All capitals in the text are constants of the table or names of the other one.
    listed = {row[0] for row in (*constants, *rows_below("Names"))}
    assert set(re.findall(r"`(_?[A-Z]{3,}[A-Z_]*)`", PAGE)) <= listed
    # And the table has every number that the search and the groups depend on.
    for file in ("_costs.py", "_search.py", "_evaluate.py", "_products.py", "_full.py"):
        numbers = {n for n, v in vars(module_named(file)).items() if n.isupper() and is_number(v)}
        assert numbers <= listed, file


def is_number(value):
    return isinstance(value, int | float | dict)


def test_the_example_has_the_numbers_of_the_code():
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], names)
    encode, x = names["encode"], names["x"]
    jacobian = [[20.0, 40.0, 80.0], [-12.0, 24.0, 0.0]]
    np.testing.assert_array_equal(jax.jacfwd(encode)(x[0]), jacobian)
    assert r"\begin{pmatrix} 20 & 40 & 80 \\ -12 & 24 & 0 \end{pmatrix}" in PAGE
    assert names["penalty"].tolist() == [9120.0]
    totals = re.findall(r"^- \$.*\$ = (.*) = (\d+)$", PAGE, re.MULTILINE)
    assert len(totals) == 3
    for terms, total in totals:
        assert eval(terms.replace("·", "*")) == int(total) == 9120

    plan = names["plan"]
    found = [plan.flops, *(flops for _, flops, _ in plan.rejected)]
    chain = _trace.read_chain(encode, jax.ShapeDtypeStruct((3,), jnp.float32))
    orders = _evaluate.factored_jacobian(chain, 1, jnp.float32).orders
    table = re.findall(r"^\| `(.*)` \| (.*) = (\d+) \| (.*) = (\d+) \|$", PAGE, re.MULTILINE)
    assert [row[0] for row in table] == ["‖D2 W2 D1 W1‖²", "<T, S>", "<X, X S>"]
    for formula, count, count_sum, cost, cost_sum in table:
        # Two orders start with <X, X S>; the one of the page is the cheaper one, which comes first.
        place = next(i for i, order in enumerate(orders) if order.name.startswith(formula))
        assert eval(count) == int(count_sum) == orders[place].cost.flops == found[place]
        assert eval(cost.replace("·", "*")) == int(cost_sum) == orders[place].cost.work
    assert plan.formula == table[0][0]


def test_the_encoder_of_the_speed_page_has_the_order_that_the_page_says():
    weights = [jnp.ones(shape) for shape in ((784, 512), (512, 256), (256, 64))]

    def encode(x_i):
        for weight in weights:
            x_i = jax.nn.sigmoid(x_i @ weight)
        return x_i

    assert jaxae.explain_contraction(encode, jnp.ones((128, 784))).formula.startswith("<X, X S>")


def test_the_measured_numbers_are_those_of_the_result_file():
    found = json.loads((RESULTS / "cost-model-cpu-2-cores.json").read_text())
    operations = found["operations"]
    assert f"| write one number | {operations['number_operations']:.2g} |" in PAGE
    assert (
        f"| one operation of a convolution | {operations['convolution_operations']:.2g} |" in PAGE
    )
    for columns, ratio in found["blocks_over_whole_by_columns"].items():
        assert f"| {columns} | {ratio:.2g} |" in PAGE
