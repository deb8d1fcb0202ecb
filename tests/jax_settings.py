"""Settings of JAX for what is tested as its users run it."""

from contextlib import contextmanager

import jax


@contextmanager
def as_on_the_command_line():
    """JAX's own settings, in every thread; a context of JAX would reach this thread alone."""
    strict = {"jax_numpy_rank_promotion": "allow", "jax_numpy_dtype_promotion": "standard"}
    before = {name: jax.config.values[name] for name in strict}
    for name, value in strict.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@contextmanager
def without_kept_programs():
    """No folder for compiled programs, with which a benchmark refuses to run."""
    kept = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)
