"""Dictionaries in the files of SAELens and Gemma Scope."""

import json
import stat
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxae import dictionary_files as files

RNG = np.random.default_rng(37)
D, K = 5, 8
X = jnp.asarray(RNG.normal(size=(20, D)), jnp.float32)
ARRAYS = {
    name: RNG.normal(size=shape).astype(np.float32)
    for name, shape in {
        "W_enc": (D, K),
        "W_dec": (K, D),
        "b_dec": (D,),
        **dict.fromkeys(("b_enc", "b_gate", "b_mag", "r_mag"), (K,)),
    }.items()
} | {"threshold": RNG.uniform(0.2, 1, K).astype(np.float32)}
COMMON = {"d_in": D, "d_sae": K, "dtype": "float32", "device": "cpu"}


def arrays_of(architecture):
    names = ("W_enc", "W_dec", "b_dec", *files.UNIT_ARRAYS[architecture])
    return {name: ARRAYS[name] for name in names}


def folder_of_saelens(folder, architecture, arrays=None, **settings):
    """Writes a folder as SAELens does."""
    settings = COMMON | {"architecture": architecture} | settings
    (folder / "cfg.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(arrays or arrays_of(architecture), folder / "sae_weights.safetensors")
    return folder


def relu(values):
    return np.maximum(values, 0)


def codes_by_hand(architecture, x, w):
    """Returns the codes as the documentation of SAELens defines them, in NumPy."""
    pre = x @ w["W_enc"]
    if architecture == "gated":
        is_open = pre + w["b_gate"] > 0
        return is_open * relu(x @ (w["W_enc"] * np.exp(w["r_mag"])) + w["b_mag"])
    pre = pre + w["b_enc"]
    if architecture == "jumprelu":
        return relu(pre) * (pre > w["threshold"])
    if architecture == "topk":
        least = np.sort(pre, axis=1)[:, -3:-2]
        return relu(pre) * (pre >= least)
    return relu(pre)


@pytest.mark.parametrize("architecture", files.UNIT_ARRAYS)
def test_folders_of_saelens_are_read_and_written(architecture, tmp_path):
    k = {"k": 3} if architecture == "topk" else {}
    read = files.read_saelens(folder_of_saelens(tmp_path, architecture, **k))
    run = jax.jit(lambda dictionary, x: jax.vmap(dictionary.encode)(x))
    expected = codes_by_hand(architecture, np.asarray(X) - ARRAYS["b_dec"], ARRAYS)
    codes = run(read, X)
    np.testing.assert_allclose(codes, expected, atol=1e-5)
    assert 0 < (expected != 0).sum() < expected.size
    decoded = expected @ ARRAYS["W_dec"] + ARRAYS["b_dec"]
    np.testing.assert_allclose(jax.vmap(read.decode)(codes), decoded, atol=1e-4)
    files.write_saelens(tmp_path / "new" / "one", read)
    again = files.read_saelens(tmp_path / "new" / "one")
    np.testing.assert_array_equal(run(again, X), codes)
    assert {path.name for path in (tmp_path / "new" / "one").iterdir()} == {
        "cfg.json",
        "sae_weights.safetensors",
    }
    settings = json.loads((tmp_path / "new" / "one" / "cfg.json").read_text())
    assert settings.items() >= (COMMON | {"architecture": architecture} | k).items()


def test_settings_of_saelens_count(tmp_path):
    options = {"apply_b_dec_to_input": False}
    read = files.read_saelens(folder_of_saelens(tmp_path, "standard", **options))
    expected = codes_by_hand("standard", np.asarray(X), ARRAYS)
    np.testing.assert_allclose(jax.vmap(read.encode)(X), expected, atol=1e-5)
    # before version 6 top-k was an activation function
    options = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}
    read = files.read_saelens(folder_of_saelens(tmp_path, "standard", **options))
    assert (read.architecture, read.k) == ("topk", 3)
    # units are chosen, and their codes given, times the norms of their filters
    options = {"k": 3, "rescale_acts_by_decoder_norm": True}
    read = files.read_saelens(folder_of_saelens(tmp_path, "topk", **options))
    norms = np.linalg.norm(ARRAYS["W_dec"], axis=1)
    w = ARRAYS | {"W_enc": ARRAYS["W_enc"] * norms, "b_enc": ARRAYS["b_enc"] * norms}
    expected = codes_by_hand("topk", np.asarray(X) - ARRAYS["b_dec"], w)
    codes = jax.vmap(read.encode)(X)
    np.testing.assert_allclose(codes, expected, atol=1e-4)
    decoded = (expected / norms) @ ARRAYS["W_dec"] + ARRAYS["b_dec"]
    np.testing.assert_allclose(jax.vmap(read.decode)(codes), decoded, atol=1e-4)


@pytest.mark.parametrize("is_lower", [False, True])
def test_archives_of_gemma_scope_are_read_and_written(is_lower, tmp_path):
    arrays = arrays_of("jumprelu")
    stored = {name.replace("W_", "w_") if is_lower else name: a for name, a in arrays.items()}
    np.savez(tmp_path / "params.npz", **stored)
    read = files.read_gemma_scope(tmp_path / "params.npz")
    expected = codes_by_hand("jumprelu", np.asarray(X), ARRAYS)
    np.testing.assert_allclose(jax.vmap(read.encode)(X), expected, atol=1e-5)
    files.write_gemma_scope(tmp_path / "again.npz", read)
    with np.load(tmp_path / "again.npz") as archive:
        assert set(archive.files) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(archive[name], array)
    # one that takes its bias from an activation computes the same from an archive
    files.write_gemma_scope(tmp_path / "other.npz", files.Dictionary("jumprelu", read.params))
    other = files.read_gemma_scope(tmp_path / "other.npz")
    expected = codes_by_hand("jumprelu", np.asarray(X) - ARRAYS["b_dec"], ARRAYS)
    np.testing.assert_allclose(jax.vmap(other.encode)(X), expected, atol=1e-5)


def test_weights_in_bfloat16_are_read(tmp_path):
    arrays = {name: jnp.asarray(array, jnp.bfloat16) for name, array in ARRAYS.items()}
    names = arrays_of("standard").keys()
    dictionary = files.Dictionary("standard", {name: arrays[name] for name in names})
    files.write_saelens(tmp_path, dictionary)
    read = files.read_saelens(tmp_path)
    assert read.encode(X[0].astype(jnp.bfloat16)).dtype == jnp.bfloat16


def without(name):
    return {key: array for key, array in arrays_of("jumprelu").items() if key != name}


BAD_FOLDERS = {
    "architecture": ({"architecture": "temporal"}, None, "architectures standard.*'temporal'"),
    "a list": ({"architecture": ["jumprelu"]}, None, r"architectures standard.*\['jumprelu'\]"),
    "options that are a list": (
        {"activation_fn": "topk", "activation_fn_kwargs": [3]},
        arrays_of("topk"),
        "must have k, an integer of at least 1, not None",
    ),
    "normalised": ({"normalize_activations": "layer_norm"}, None, "normalize_activations 'layer"),
    "heads": ({"reshape_activations": "hook_z"}, None, "reshape_activations 'hook_z'"),
    "scaled": ({"finetuning_scaling_factor": True}, None, "scaling factor"),
    "no k": ({"architecture": "topk"}, arrays_of("topk"), "must have k, an integer"),
    "missing": ({}, without("threshold"), r"\['threshold'\] are missing"),
    "name": ({}, arrays_of("jumprelu") | {"W_x": ARRAYS["b_enc"]}, r"\['W_x'\] are too many"),
    "shape": ({}, arrays_of("jumprelu") | {"b_dec": ARRAYS["b_enc"]}, r"b_dec of shape \(5,\)"),
    "integers": ({}, arrays_of("jumprelu") | {"b_dec": np.ones(D, np.int32)}, "floating"),
}


@pytest.mark.parametrize(("settings", "arrays", "match"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_bad_folders_are_one_line(settings, arrays, match, tmp_path):
    settings = {"architecture": "jumprelu"} | settings
    folder_of_saelens(tmp_path, arrays=arrays or arrays_of("jumprelu"), **settings)
    with pytest.raises(ValueError, match=match) as caught:
        files.read_saelens(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("damage", ["no folder", "no weights", "settings", "nested", "weights"])
def test_missing_and_damaged_files_are_one_line(damage, tmp_path):
    folder = tmp_path / "one"
    if damage != "no folder":
        folder.mkdir()
        folder_of_saelens(folder, "standard")
    if damage == "no weights":
        (folder / "sae_weights.safetensors").unlink()
    elif damage == "settings":
        (folder / "cfg.json").write_text("{", encoding="utf-8")
    elif damage == "nested":
        (folder / "cfg.json").write_text("[" * 10**5, encoding="utf-8")
    elif damage == "weights":
        (folder / "sae_weights.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"must be (the settings|a file)") as caught:
        files.read_saelens(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "text", "one array", "pickled"])
def test_bad_archives_are_one_line_and_nothing_is_unpickled(damage, tmp_path):
    path = tmp_path / "params.npz"
    if damage == "text":
        path.write_bytes(b"not an archive")
    elif damage == "one array":
        with path.open("wb") as file:
            np.save(file, X)
    elif damage == "pickled":
        np.savez(path, W_enc=np.array([print], object))
    with pytest.raises(ValueError, match=r"must be an archive such as params\.npz") as caught:
        files.read_gemma_scope(path)
    assert "\n" not in str(caught.value)
    if damage == "text":
        assert "it is no file of NumPy" in str(caught.value)


def test_files_of_other_machines_are_read_and_written(tmp_path):
    """Big-endian arrays, and settings that begin with the byte order mark of Windows."""
    swapped = {name: a.astype(a.dtype.newbyteorder(">")) for name, a in ARRAYS.items()}
    arrays = {name: swapped[name] for name in arrays_of("jumprelu")}
    np.savez(tmp_path / "params.npz", **arrays)
    read = files.read_gemma_scope(tmp_path / "params.npz")
    expected = codes_by_hand("jumprelu", np.asarray(X), ARRAYS)
    np.testing.assert_allclose(jax.vmap(read.encode)(X), expected, atol=1e-5)
    files.write_saelens(tmp_path / "one", files.Dictionary("jumprelu", arrays))
    settings = tmp_path / "one" / "cfg.json"
    settings.write_text(settings.read_text(encoding="utf-8"), encoding="utf-8-sig")
    again = files.read_saelens(tmp_path / "one")
    np.testing.assert_array_equal(again.params["W_enc"], ARRAYS["W_enc"])


def test_words_in_an_archive_are_one_line(tmp_path):
    words = arrays_of("jumprelu") | {"threshold": np.full(K, "a")}
    np.savez(tmp_path / "params.npz", **words)
    with pytest.raises(ValueError, match="must hold floating arrays, but their dtypes are"):
        files.read_gemma_scope(tmp_path / "params.npz")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_others_may_read_what_is_written_as_any_new_file(tmp_path):
    files.write_saelens(tmp_path / "one", files.Dictionary("standard", arrays_of("standard")))
    (tmp_path / "new").write_text("as the umask of the user says")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes["sae_weights.safetensors"] == modes["cfg.json"] == modes["new"]


def test_a_file_that_cannot_be_renamed_leaves_nothing(tmp_path):
    (tmp_path / "params.npz").mkdir()
    with pytest.raises(OSError, match=r"params\.npz"):
        files.write_gemma_scope(
            tmp_path / "params.npz", files.Dictionary("jumprelu", arrays_of("jumprelu"))
        )
    assert [path.name for path in tmp_path.iterdir()] == ["params.npz"]


def test_what_cannot_be_written_is_refused(tmp_path):
    standard = files.Dictionary("standard", arrays_of("standard"))
    with pytest.raises(
        ValueError, match="must be of the architecture jumprelu, but it is standard"
    ):
        files.write_gemma_scope(tmp_path / "params.npz", standard)
    with pytest.raises(ValueError, match="dictionary must have k"):
        files.write_saelens(tmp_path, files.Dictionary("topk", arrays_of("topk")))
    with pytest.raises(ValueError, match="but it has 'other'"):
        files.write_saelens(tmp_path, files.Dictionary("other", arrays_of("topk")))
    assert not list(tmp_path.iterdir())
