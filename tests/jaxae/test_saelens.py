"""The same dictionaries, data and measures in SAELens; skipped where it is not installed.

SAELens needs PyTorch: ``pip install sae-lens`` into an environment of its own, then
``python -m pytest tests/jaxae/test_saelens.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from jaxae import dictionary_files as files

sae_lens = pytest.importorskip("sae_lens", reason="SAELens is not installed")
torch = pytest.importorskip("torch", reason="PyTorch is not installed")

RNG = np.random.default_rng(41)
D, K, ATOMS = 5, 8, 11
SIZES = {"d_in": D, "d_sae": K, "dtype": "float32", "device": "cpu"}
X = RNG.normal(size=(20, D)).astype(np.float32)
# Classes of SAELens that train, and what they are saved as.
TRAINED = {
    "standard": ({}, "standard"),
    "topk": ({"k": 3}, "topk"),
    "batchtopk": ({"k": 2.5}, "jumprelu"),
    "matryoshka_batchtopk": ({"k": 2.5, "matryoshka_widths": [2, 8]}, "jumprelu"),
    "jumprelu": ({}, "jumprelu"),
    "gated": ({}, "gated"),
}


def draw(shape, *, is_positive=False):
    values = RNG.normal(size=shape).astype(np.float32)
    return np.abs(values) if is_positive else values


def require_the_same(ours, theirs):
    """Compares codes and reconstructions of the activations in both libraries."""
    with torch.no_grad():
        codes = theirs.encode(torch.tensor(X))
        decoded = theirs.decode(codes)
    own = jax.vmap(ours.encode)(jnp.asarray(X))
    assert 0 < np.count_nonzero(codes) < codes.numel()
    np.testing.assert_allclose(own, codes, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(ours.decode)(own), decoded, atol=1e-5)


# SAELens has no gated dictionary that leaves its bias in an activation.
WRITTEN = [(name, True) for name in files.UNIT_ARRAYS]
WRITTEN += [(name, False) for name in files.UNIT_ARRAYS if name != "gated"]


@pytest.mark.parametrize(("architecture", "subtracts_bias"), WRITTEN)
def test_saelens_reads_what_is_written(architecture, subtracts_bias, tmp_path):
    shapes = {"W_enc": (D, K), "W_dec": (K, D), "b_dec": (D,)}
    shapes |= dict.fromkeys(files.UNIT_ARRAYS[architecture], (K,))
    arrays = {
        name: jnp.asarray(draw(shape, is_positive=name == "threshold"))
        for name, shape in shapes.items()
    }
    k = 3 if architecture == "topk" else None
    ours = files.Dictionary(architecture, arrays, k, subtracts_bias)
    files.write_saelens(tmp_path, ours)
    require_the_same(ours, sae_lens.SAE.load_from_disk(tmp_path))


@pytest.mark.parametrize("name", TRAINED)
def test_what_saelens_writes_is_read(name, tmp_path):
    settings, architecture = TRAINED[name]
    trained = sae_lens.TrainingSAE.from_dict(SIZES | {"architecture": name} | settings)
    with torch.no_grad():
        for own, parameter in trained.named_parameters():
            parameter.copy_(torch.tensor(draw(parameter.shape, is_positive=own == "threshold")))
        if architecture != name:
            trained.topk_threshold += 0.7
    trained.save_inference_model(tmp_path)
    ours = files.read_saelens(tmp_path)
    assert ours.architecture == architecture
    require_the_same(ours, sae_lens.SAE.load_from_disk(tmp_path))


def test_norms_that_rescale_the_code_are_read(tmp_path):
    settings = {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True}
    theirs = sae_lens.SAE.from_dict(SIZES | settings)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.tensor(draw(parameter.shape)))
    theirs.save_model(tmp_path)
    require_the_same(files.read_saelens(tmp_path), theirs)


def test_measures_are_those_of_saelens():
    from sae_lens.evals import ExplainedVarianceCalculator
    from sae_lens.synthetic import evals

    atoms, decoder = draw((ATOMS, D)), draw((K, D))
    strengths = np.maximum(draw((40, ATOMS)), 0)
    code = np.maximum(draw((40, K)) - 0.3, 0)
    code[:, 0] = 0  # a dead unit
    x = strengths @ atoms + 3  # far from 0, where a variance about 0 would be another number
    x_hat = x + 0.3 * draw(x.shape)
    x_hat += (x - x_hat).mean(axis=0)  # theirs counts the mean of the error as an error too
    tensors = [torch.tensor(array) for array in (code, strengths, decoder, atoms, x_hat, x)]
    t_code, t_strengths, t_decoder, t_atoms, t_x_hat, t_x = tensors

    def computed(calculator, *batch):
        calculator.add_batch(*batch)
        return calculator.compute()

    theirs = evals.compute_classification_metrics(t_code, t_strengths, t_decoder, t_atoms)
    nearest = jaxae.nearest_atoms(decoder, atoms)
    counts = jaxae.unit_counts(code, strengths, nearest)
    pairs = {
        "precision": (counts.precision.mean(), theirs.precision),
        "recall": (counts.recall.mean(), theirs.recall),
        "F1": (counts.f1.mean(), theirs.f1_score),
        "mean correlation": (
            jaxae.mean_correlation(decoder, atoms),
            evals.mean_correlation_coefficient(t_decoder, t_atoms),
        ),
        "uniqueness": (
            jaxae.uniqueness(decoder, atoms),
            evals.feature_uniqueness(t_decoder, t_atoms),
        ),
        "L0": (jaxae.active_units(code).mean(), computed(evals.L0Calculator(), t_code)),
        "dead units": (
            jaxae.dead_units(code).sum(),
            computed(evals.DeadLatentsCalculator(K), t_code),
        ),
        "shrinkage": (
            jaxae.shrinkage(x_hat, x).mean(),
            computed(evals.ShrinkageCalculator(), t_x_hat, t_x),
        ),
        "explained variance": (
            jaxae.explained_variance(x_hat, x),
            computed(ExplainedVarianceCalculator(), t_x_hat, t_x),
        ),
    }
    for name, (ours, expected) in pairs.items():
        np.testing.assert_allclose(ours, expected, rtol=1e-5, err_msg=name)
    assert 0 < pairs["F1"][1] < 1
    assert pairs["dead units"][1] == 1
