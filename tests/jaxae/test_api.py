"""The style of the public functions, as a test; and the contract of their names."""

import inspect
import re

import pytest

import jaxae

# name: positional parameters, then keyword-only ones that the contract fixes
CONTRACT = {
    "masking_noise": ("key", "x", "*", "rate"),
    "gaussian_noise": ("key", "x", "*", "stddev"),
    "uniform_noise": ("key", "x", "*", "scale", "low", "high"),
    "salt_and_pepper_noise": ("key", "x", "*", "rate", "low", "high"),
    "compose": ("corruptions",),
    "corrupt_batch": ("key", "corrupt", "x"),
    "squared_error": ("x_hat", "x"),
    "gaussian_nll": ("mean", "x", "*", "stddev"),
    "bernoulli_nll": ("logits", "x"),
    "l1_penalty": ("code",),
    "kl_sparsity_penalty": ("code", "*", "target"),
    "keep_top_k": ("code", "*", "k"),
    "contractive_penalty": ("encode", "x", "*", "method", "key", "num_samples", "chunk_size"),
    "sparse_loss": ("encode", "decode", "x", "*", "weight", "penalty", "reconstruction"),
    "denoising_loss": ("key", "encode", "decode", "x", "*", "corrupt", "reconstruction"),
    "contractive_loss": ("encode", "decode", "x", "*", "weight", "method", "reconstruction"),
    "reconstruction_field": ("encode", "decode", "x"),
    "score_estimate": ("encode", "decode", "x", "*", "stddev"),
}
# Functions whose formula or algorithm comes from no publication: tools, and plain averages.
WITHOUT_REFERENCES = {
    *(
        "active_units",
        "dead_units",
        "dense_units",
        "mean_squared_error",
        "evaluate",
        "explain_contraction",
    ),
    *("compose", "create_train_state", "data_mesh", "make_epoch", "make_run", "fit", "fit_many"),
    *("sweep_method", "minimize", "register_contraction_rule"),
}
FUNCTIONS = {
    name: getattr(jaxae, name)
    for name in jaxae.__all__
    if inspect.isfunction(inspect.unwrap(getattr(jaxae, name)))
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


@pytest.mark.parametrize("name", CONTRACT)
def test_contract_of_the_signature(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    wanted = CONTRACT[name]
    positional = [p.name for p in parameters.values() if p.kind is not p.KEYWORD_ONLY]
    keyword = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    star = wanted.index("*") if "*" in wanted else len(wanted)
    assert positional == list(wanted[:star])
    assert set(wanted[star + 1 :]) <= set(keyword)


def test_all_is_what_is_exported():
    public = {name for name in vars(jaxae) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(jaxae, name))}
    assert public - modules == set(jaxae.__all__)
    assert len(set(jaxae.__all__)) == len(jaxae.__all__)


def test_the_docstring_of_the_package_lists_every_name_once():
    listed = re.findall(r"^\* ``(\w+)``: .+$", jaxae.__doc__, re.MULTILINE)
    assert sorted(listed) == sorted(jaxae.__all__)


@each_function
def test_docstring_has_every_section(name):
    doc = inspect.getdoc(FUNCTIONS[name]) or ""
    assert doc.splitlines()[0].startswith("Returns "), "one line that says what is returned"
    assert doc.splitlines()[0].endswith(".")
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert f"\n{section}\n" in doc, section
    assert ">>> " in doc, "a doctest"
    order = [doc.index(f"\n{section}\n") for section in ("Args:", "Returns:", "Raises:")]
    assert order == sorted(order)


@each_function
def test_docstring_names_its_sources_or_has_none(name):
    references = (inspect.getdoc(FUNCTIONS[name]) or "").partition("\nReferences:\n")[2]
    assert bool(references.strip()) == (name not in WITHOUT_REFERENCES)
    assert not references.strip().startswith("None")


def test_functions_without_references_exist():
    assert FUNCTIONS.keys() >= WITHOUT_REFERENCES


@each_function
def test_docstring_describes_every_parameter_and_no_other(name):
    doc = inspect.getdoc(FUNCTIONS[name])
    args = doc.split("\nArgs:\n")[1].split("\nReturns:\n")[0]
    described = re.findall(r"^  (\*?\w+): ", args, flags=re.MULTILINE)
    parameters = [
        f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name
        for p in inspect.signature(FUNCTIONS[name]).parameters.values()
    ]
    assert described == parameters


@each_function
def test_randomness_is_a_key_and_there_are_no_reductions_or_seeds(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    assert not {"rng", "seed", "reduction", "prng"} & parameters.keys()
    if "key" in parameters and parameters["key"].default is inspect.Parameter.empty:
        first_three = list(parameters)[:3]
        assert first_three[0] == "key" or name == "fit"


@each_function
def test_hyper_parameters_are_keyword_only(name):
    for parameter in inspect.signature(FUNCTIONS[name]).parameters.values():
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.kind is parameter.KEYWORD_ONLY, parameter.name


@each_function
def test_everything_is_annotated(name):
    signature = inspect.signature(FUNCTIONS[name])
    assert signature.return_annotation is not signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty, parameter.name


@pytest.mark.parametrize("name", [n for n in jaxae.__all__ if inspect.isclass(getattr(jaxae, n))])
def test_classes_are_documented_with_their_public_methods(name):
    cls = getattr(jaxae, name)
    assert inspect.getdoc(cls)
    for attribute, value in vars(cls).items():
        is_field = attribute in getattr(cls, "__dataclass_fields__", {})
        is_own = inspect.isfunction(value) and not attribute.startswith("_")
        if is_own and not is_field and attribute != "setup":
            assert inspect.getdoc(value), f"{name}.{attribute}"
