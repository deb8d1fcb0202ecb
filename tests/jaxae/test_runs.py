"""Whole runs: many epochs a call, many models at once, and what breaks down on the way."""

import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae
from jaxae.training import _drive, many, programs

RNG = np.random.default_rng(9)
X = jnp.asarray(RNG.uniform(size=(37, 6)), jnp.float32)
INIT, ENCODE, DECODE = jaxae.as_functions(
    jaxae.DenseAutoencoder((6,), 3, output_activation=jax.nn.sigmoid)
)


@pytest.fixture(autouse=True)
def optax_promotes():
    """optax's Adam mixes a Python float with an int32 count, which is not strict."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def dae_loss(params, key, x, stddev):
    f = partial(ENCODE, params), partial(DECODE, params)
    return jaxae.denoising_loss(key, *f, x, corrupt=partial(jaxae.gaussian_noise, stddev=stddev))


ADAM = optax.adam(0.02)
# Shared, so that the tests compile each program once.
RUN = jaxae.make_run(dae_loss, ADAM, batch_size=8, epochs_per_call=4)
LEVELS = jnp.array([0.0, 0.2, 0.7])


def starts(count=3):
    keys = jax.random.split(jax.random.key(4), (count, 2))
    states = jax.vmap(lambda key: jaxae.create_train_state(INIT(key), ADAM))(keys[:, 0])
    return states, jaxae.hash_key(keys[:, 1])


def of_model(stacked, i):
    return jax.tree.map(lambda leaf: leaf[i], stacked)


def same(a, b, **tolerance):
    check = partial(np.testing.assert_allclose, **tolerance) if tolerance else None
    jax.tree.map(check or np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def one_by_one():
    """Every model trained by itself, with its losses."""
    with jax.numpy_dtype_promotion("standard"):
        states, keys = starts()
        trained, losses = [], []
        for i in range(3):
            values = []
            note = lambda epoch, loss, values=values: values.append((epoch, loss))
            alone = of_model(states, i), keys[i], X, LEVELS[i]
            state = jaxae.fit(RUN, *alone, epochs=6, on_epoch=note)
            trained.append(state)
            losses.append(values)
        return trained, losses


def test_a_run_is_its_epochs_one_after_another(one_by_one):
    run_epoch = jaxae.make_epoch(dae_loss, ADAM, batch_size=8)
    states, keys = starts()
    state, losses = of_model(states, 1), []
    for epoch in range(6):
        state, loss = run_epoch(state, keys[1], epoch, X, LEVELS[1])
        losses.append(float(loss))
    trained, reported = one_by_one
    same(trained[1], state, rtol=1e-5, atol=1e-6)
    assert [epoch for epoch, _ in reported[1]] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([loss for _, loss in reported[1]], losses, rtol=1e-5)


def test_losses_beyond_the_epochs_are_not_numbers():
    states, keys = starts()
    state, losses = jax.jit(RUN)(of_model(states, 0), keys[0], 0, 3, X, 0.1)
    assert losses.shape == (RUN.epochs_per_call,)
    assert np.isfinite(losses[:3]).all()
    assert np.isnan(losses[3:]).all()
    assert int(state.step) == 15
    untouched, none = jax.jit(RUN)(of_model(states, 0), keys[0], 0, 0, X, 0.1)
    same(untouched, of_model(states, 0))
    assert np.isnan(none).all()


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_how_a_run_is_cut_into_calls_changes_nothing(seconds, one_by_one, monkeypatch):
    monkeypatch.setattr(_drive, "_SECONDS_PER_CALL", seconds)
    monkeypatch.setattr(_drive, "_FIRST_BLOCKS", 3)
    states, keys = starts()
    calls = []
    program = RUN.program
    monkeypatch.setattr(RUN, "program", lambda *a, **k: counted(program(*a, **k), calls))
    state = jaxae.fit(RUN, of_model(states, 2), keys[2], X, LEVELS[2], epochs=6)
    same(state, one_by_one[0][2])
    # some steps, as many again for the time they take, then as many as fit in
    assert calls == ([3, 3] + [1] * 24 if seconds == 0 else [3, 3, 19, 5])


def counted(program, calls):
    def call(state, step_losses, key, first, end, *rest):
        calls.append(int(end - first))
        return program(state, step_losses, key, first, end, *rest)

    return call


def test_the_state_of_the_caller_survives_and_that_of_a_call_is_used_up(one_by_one):
    states, keys = starts()
    start = of_model(states, 0)
    kept = jax.tree.map(np.array, start)
    same(jaxae.fit(RUN, start, keys[0], X, LEVELS[0], epochs=6), one_by_one[0][0])
    same(start, kept)
    arguments = RUN.arguments(start, keys[0], X, LEVELS[0])
    RUN.program(*arguments)(*arguments)
    assert start.params["encoder_kernel_0"].is_deleted()


@pytest.mark.parametrize("cache", [2**25, 1], ids=["together", "one after another"])
def test_models_in_threads_have_the_bits_of_each_by_itself(one_by_one, cache, monkeypatch):
    monkeypatch.setattr(many, "_CACHE_BYTES", cache)
    states, keys = starts()
    seen = [[], [], []]
    trained = jaxae.fit_many(
        RUN, states, keys, X, LEVELS, epochs=6, method="threads",
        on_epoch=lambda model, epoch, loss: seen[model].append((epoch, loss)),
    )  # fmt: skip
    for i, alone in enumerate(one_by_one[0]):
        same(of_model(trained, i), alone)
    assert seen == one_by_one[1]


def test_models_under_vmap_equal_each_by_itself(one_by_one):
    states, keys = starts()
    seen = [[], [], []]
    trained = jaxae.fit_many(
        RUN, states, keys, X, LEVELS, epochs=6, method="vmap",
        on_epoch=lambda model, epoch, loss: seen[model].append((epoch, loss)),
    )  # fmt: skip
    for i, alone in enumerate(one_by_one[0]):
        same(of_model(trained, i), alone, rtol=1e-4, atol=1e-5)
        assert [epoch for epoch, _ in seen[i]] == [1, 2, 3, 4, 5, 6]
        losses = [[loss for _, loss in part] for part in (seen[i], one_by_one[1][i])]
        np.testing.assert_allclose(*losses, rtol=1e-5)


def test_the_method_follows_from_the_platform_alone(monkeypatch):
    assert jaxae.sweep_method() == ("threads" if jax.default_backend() == "cpu" else "vmap")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert jaxae.sweep_method() == "vmap"


def tiny(count=3):
    """A run that compiles in no time, states and keys."""
    sgd = optax.sgd(0.1)
    loss = lambda params, key, x, setting: setting * jnp.square(params - x[:, 0])
    states = jax.vmap(lambda p: jaxae.create_train_state(p, sgd))(jnp.zeros(count))
    keys = jax.random.split(jax.random.key(0), count)
    return jaxae.make_run(loss, sgd, batch_size=8), states, keys


def test_a_program_is_compiled_once_also_when_threads_ask_together(monkeypatch):
    run, states, keys = tiny()
    compiled = []
    real = programs._compile
    monkeypatch.setattr(programs, "_compile", lambda low: compiled.append(1) or real(low))
    jaxae.fit_many(run, states, keys, X, LEVELS, epochs=1, method="threads")
    assert len(compiled) == 1
    jaxae.fit(run, of_model(states, 0), keys[0], X, 1, epochs=1)
    jaxae.fit(run, of_model(states, 0), keys[0], X, 0.5, epochs=2)
    # an integer and a float setting are two programs; a level, an epoch or a length is none
    assert len(compiled) == 2


def test_a_precision_of_products_is_a_program_of_its_own():
    run, states, keys = tiny()
    arguments = run.arguments(of_model(states, 0), keys[0], X, LEVELS[0])
    default = run.program(*arguments)
    with jax.default_matmul_precision("highest"):
        assert run.program(*arguments) is not default
    assert run.program(*arguments) is default


@pytest.mark.thorough(by_default=["threads"])
@pytest.mark.parametrize("method", ["threads", "vmap"])
def test_a_model_that_breaks_down_is_named_and_stops_the_others(method):
    def loss(params, key, x, bad_after):
        # finite for some epochs of 5 steps, then not
        return jnp.where(params < bad_after - 0.5, 1.0, jnp.nan) + 0 * x[:, 0] - params

    sgd = optax.sgd(1.0)
    run = jaxae.make_run(loss, sgd, batch_size=8, epochs_per_call=2)
    states = jax.vmap(lambda p: jaxae.create_train_state(p, sgd))(jnp.zeros(3))
    keys = jax.random.split(jax.random.key(0), 3)
    after = jnp.array([1e9, 10.0, 1e9])
    seen = []
    with pytest.raises(jaxae.NonFiniteLossError, match="nan in epoch 3 of model 1: ") as caught:
        jaxae.fit_many(
            run, states, keys, X, after, epochs=100_000, method=method,
            on_epoch=lambda model, epoch, _: seen.append((model, epoch)),
        )  # fmt: skip
    assert (caught.value.model, caught.value.epoch) == (1, 3)
    assert [epoch for model, epoch in seen if model == 1] == [1, 2]
    assert max(epoch for _, epoch in seen) < 100_000


def test_a_parameter_that_breaks_in_the_last_step_is_noticed_for_its_model():
    sgd = optax.sgd(3e38)
    run = jaxae.make_run(lambda p, k, x, s: s * p * x.sum(-1), sgd, batch_size=37)
    states = jax.vmap(lambda p: jaxae.create_train_state(p, sgd))(jnp.ones(2))
    keys = jax.random.split(jax.random.key(0), 2)
    for method in ("threads", "vmap"):
        with pytest.raises(jaxae.NonFiniteLossError, match=r"became .* in epoch 1 of model 1"):
            jaxae.fit_many(run, states, keys, X, jnp.array([0.0, 2.0]), epochs=1, method=method)


class Stop(Exception):
    pass


def test_an_error_of_the_callback_reaches_the_caller_and_nothing_runs_on():
    states, keys = starts()
    seen = []

    def on_epoch(model, epoch, loss):
        seen.append(threading.get_ident())
        if len(seen) == 3:
            raise Stop

    with pytest.raises(Stop):
        jaxae.fit_many(RUN, states, keys, X, LEVELS, epochs=10**6, on_epoch=on_epoch)
    assert not [t for t in threading.enumerate() if t.ident in seen and t.is_alive()]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_epoch(key, bad):
    def loss(params, step_key, x):
        # finite for two epochs of 5 steps, then not
        return jnp.where(params < 9.5, 1.0 + 0 * params, bad) + 0 * x[:, 0] - params

    sgd = optax.sgd(1.0)
    run = jaxae.make_run(loss, sgd, batch_size=8)
    state = jaxae.create_train_state(jnp.zeros(()), sgd)
    seen = []
    with pytest.raises(jaxae.NonFiniteLossError, match="in epoch 3: ") as caught:
        jaxae.fit(run, state, key, X, epochs=9, on_epoch=lambda e, v: seen.append(e))
    assert (caught.value.epoch, caught.value.model) == (3, None)
    assert seen == [1, 2]


def sparse_loss(params, key, x, weight):
    penalty = partial(jaxae.kl_sparsity_penalty, target=0.1)
    encode = lambda x_i: jnp.tanh(params * x_i)
    return jaxae.sparse_loss(encode, lambda z: z, x, weight=weight, penalty=penalty)


def pixel_loss(params, key, x, weight):
    reconstruction = jaxae.bernoulli_nll
    loss = jaxae.reconstruction_loss(
        lambda v: params * v, lambda z: z, x, reconstruction=reconstruction
    )
    return loss + 0 * weight


@pytest.mark.thorough(by_default=["pixels"])
@pytest.mark.parametrize(
    ("loss", "weight", "x", "message"),
    [
        (sparse_loss, 1.0, X - 0.5, "code must be at least 0"),
        (sparse_loss, -1.0, X, "weight must be a finite number of at least 0, but it is -1"),
        (pixel_loss, 1.0, X.at[36, 5].set(255.0), r"x must be at most 1, but 1 .*\(in example 1\)"),
    ],
    ids=["code", "weight", "pixels"],
)
def test_a_run_with_values_outside_their_range_names_the_argument(loss, weight, x, message, key):
    """Of the whole data, although the first batch is right, and of the model that has them."""
    sgd = optax.sgd(0.0)
    run = jaxae.make_run(loss, sgd, batch_size=8, epochs_per_call=2)
    state = jaxae.create_train_state(jnp.ones(6), sgd)
    with pytest.raises(jaxae.NonFiniteLossError, match=f"nan in epoch 1: {message}"):
        jaxae.fit(run, state, key, x, weight, epochs=2)
    if weight < 0:
        states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), state)
        for method in ("vmap", "threads"):
            with pytest.raises(jaxae.NonFiniteLossError, match=f"epoch 1 of model 1: {message}"):
                jaxae.fit_many(
                    run, states, jax.random.split(key), x, jnp.array([1.0, weight]), epochs=1,
                    method=method,
                )  # fmt: skip


def test_a_long_epoch_stops_after_its_first_steps(key):
    """It takes a callback to see it: each of the 4000 steps counts itself."""
    steps = []

    def loss(params, key, x):
        jax.debug.callback(lambda: steps.append(0))
        return params + jnp.nan * x[:, 0]

    sgd = optax.sgd(0.1)
    run = jaxae.make_run(loss, sgd, batch_size=1)
    state = jaxae.create_train_state(jnp.ones(()), sgd)
    with pytest.raises(jaxae.NonFiniteLossError, match=r"in epoch 1: lower .* bernoulli_nll"):
        jaxae.fit(run, state, key, jnp.ones((4000, 1)), epochs=1)
    jax.effects_barrier()
    assert len(steps) < 100


def test_adam_in_float16_is_told_of_its_eps(key):
    run = jaxae.make_run(lambda p, key, x: 0 * p + x[:, 0], ADAM, batch_size=8)
    state = jaxae.create_train_state(jnp.ones((), jnp.float16), ADAM)
    with pytest.raises(jaxae.NonFiniteLossError, match="eps=1e-8 of Adam is 0, so pass eps=1e-4"):
        jaxae.fit(run, state, key, X.astype(jnp.float16), epochs=1)


def test_going_on_continues_the_random_streams(one_by_one):
    states, keys = starts()
    half = jaxae.fit(RUN, of_model(states, 0), keys[0], X, LEVELS[0], epochs=2)
    numbers = []
    both = jaxae.fit(
        RUN, half, keys[0], X, LEVELS[0], epochs=4, first_epoch=2,
        on_epoch=lambda epoch, _: numbers.append(epoch),
    )  # fmt: skip
    same(both, one_by_one[0][0])
    assert numbers == [3, 4, 5, 6]


def test_settings_may_be_pytrees():
    def loss(params, key, x, setting):
        return jnp.square(params - setting["target"] * x[:, 0])

    sgd = optax.sgd(0.5)
    run = jaxae.make_run(loss, sgd, batch_size=5)
    states = jax.vmap(lambda p: jaxae.create_train_state(p, sgd))(jnp.zeros(2))
    targets = {"target": jnp.array([1.0, 3.0])}
    keys = jax.random.split(jax.random.key(0))
    for method in ("threads", "vmap"):
        trained = jaxae.fit_many(run, states, keys, jnp.ones((5, 1)), targets, epochs=2,
                                 method=method)  # fmt: skip
        assert trained.params.tolist() == [1.0, 3.0]


class InMemory:
    """Checkpoints that keep everything in memory, and stop after some questions."""

    def __init__(self, every=None, questions=None):
        self.every, self.questions = every, questions
        self.saved = {}

    def restore(self, model, like):
        found = self.saved.get(model)
        return found and found[-1]

    def save(self, model, snapshot):
        self.saved.setdefault(model, []).append(snapshot)

    def should_stop(self):
        if self.questions is None:
            return False
        self.questions -= 1
        return self.questions < 0


def test_a_run_stopped_after_any_steps_goes_on_to_the_same_bits(one_by_one, monkeypatch):
    monkeypatch.setattr(_drive, "_FIRST_BLOCKS", 3)
    monkeypatch.setattr(_drive, "_SECONDS_PER_CALL", 0.0)  # three steps, three, then one at a time
    states, keys = starts()
    arguments = RUN, of_model(states, 1), keys[1], X, LEVELS[1]
    kept, places = InMemory(), []
    for questions in (0, 0, 1, 2, 4):
        kept.questions = questions
        with pytest.raises(jaxae.StoppedError):
            jaxae.fit(*arguments, epochs=6, checkpoints=kept)
        places.append((kept.saved[0][-1].epoch, kept.saved[0][-1].step))
    assert places == [(0, 3), (1, 1), (2, 2), (3, 4), (5, 3)]
    kept.questions, seen = None, []
    note = lambda epoch, loss: seen.append((epoch, loss))
    state = jaxae.fit(*arguments, epochs=6, on_epoch=note, checkpoints=kept)
    same(state, one_by_one[0][1])
    assert seen == one_by_one[1][1]  # those of the epochs before it too
    last = kept.saved[0][-1]
    assert (last.epoch, last.step) == (6, 0)
    same(last.state, state)
    np.testing.assert_array_equal(last.losses, [loss for _, loss in seen])


@pytest.mark.parametrize("method", ["threads", "vmap"])
def test_snapshots_come_every_so_many_epochs_and_at_the_end(method):
    states, keys = starts()
    kept = InMemory(every=4)
    options = {"epochs": 6, "method": method, "checkpoints": kept}
    trained = jaxae.fit_many(RUN, states, keys, X, LEVELS, **options)
    for model in range(3):
        places = [(snapshot.epoch, snapshot.step) for snapshot in kept.saved[model]]
        assert places == [(4, 0), (6, 0)]
        same(kept.saved[model][-1].state, of_model(trained, model))


@pytest.mark.thorough(by_default=["threads"])
@pytest.mark.parametrize("method", ["threads", "vmap"])
def test_models_go_on_from_epochs_of_their_own(method):
    states, keys = starts()
    whole = InMemory(every=2)
    options = {"epochs": 6, "method": method}
    trained = jaxae.fit_many(RUN, states, keys, X, LEVELS, **options, checkpoints=whole)
    kept = InMemory()
    kept.saved = {0: whole.saved[0][:2], 1: whole.saved[1][:1], 2: whole.saved[2]}
    resumed = jaxae.fit_many(RUN, states, keys, X, LEVELS, **options, checkpoints=kept)
    tolerance = {} if method == "threads" else {"rtol": 1e-4, "atol": 1e-5}
    for model in range(3):
        same(of_model(resumed, model), of_model(trained, model), **tolerance)


def test_a_snapshot_of_something_else_is_refused():
    states, keys = starts()
    kept = InMemory()
    arguments = RUN, of_model(states, 0), keys[0]
    jaxae.fit(*arguments, X, LEVELS[0], epochs=2, checkpoints=kept)
    with pytest.raises(ValueError, match="has 2 epochs behind it, but this run goes from 0 to 1"):
        jaxae.fit(*arguments, X, LEVELS[0], epochs=1, checkpoints=kept)
    with pytest.raises(ValueError, match="of other data or another batch size"):
        jaxae.fit(*arguments, X[:20], LEVELS[0], epochs=3, checkpoints=kept)
    kept.saved[0][-1] = kept.saved[0][-1]._replace(state=of_model(states, 0).params)
    with pytest.raises(ValueError, match="of another model or optimiser"):
        jaxae.fit(*arguments, X, LEVELS[0], epochs=3, checkpoints=kept)


def test_a_state_that_broke_down_is_never_kept():
    def loss(params, key, x):
        return jnp.where(params > 2.5, jnp.nan, -params) * jnp.ones(len(x))

    optimizer = optax.sgd(1.0)
    run = jaxae.make_run(loss, optimizer, batch_size=2)
    state, kept = jaxae.create_train_state(jnp.zeros(()), optimizer), InMemory(every=1)
    with pytest.raises(jaxae.NonFiniteLossError) as caught:
        jaxae.fit(run, state, jax.random.key(0), X[:2], epochs=9, checkpoints=kept)
    assert caught.value.epoch == 4
    assert [snapshot.epoch for snapshot in kept.saved[0]] == [1, 2, 3]
    assert all(np.isfinite(snapshot.state.params) for snapshot in kept.saved[0])


@pytest.mark.parametrize("told", [False, True])
def test_a_parameter_that_broke_in_the_last_step_of_an_epoch_is_never_kept(told, monkeypatch):
    # The loss is finite, 0, where its gradient is not: no loss sees the update that breaks down.
    def loss(params, key, x):
        return jnp.sqrt(jnp.square(x[:, 0] - params))

    monkeypatch.setattr(_drive, "_FIRST_BLOCKS", 1)
    monkeypatch.setattr(_drive, "_SECONDS_PER_CALL", 0.0)
    optimizer = optax.sgd(1.0)
    run = jaxae.make_run(loss, optimizer, batch_size=1)
    state, kept = jaxae.create_train_state(jnp.zeros(()), optimizer), InMemory(every=1)
    if told:  # to stop in the middle of the epoch
        kept = InMemory(questions=1)
    data = jnp.ones((1 + 2 * told, 1))
    with pytest.raises(jaxae.NonFiniteLossError) as caught:
        jaxae.fit(run, state, jax.random.key(0), data, epochs=9, checkpoints=kept)
    assert caught.value.epoch == (1 if told else 2)
    assert [snapshot.epoch for snapshot in kept.saved.get(0, [])] == ([] if told else [1])


def test_a_step_whose_loss_broke_is_never_kept_in_the_middle_of_an_epoch(monkeypatch):
    monkeypatch.setattr(_drive, "_FIRST_BLOCKS", 1)
    optimizer = optax.sgd(1.0)
    zero = lambda params, key, x: jnp.full(len(x), jnp.nan) + 0 * params
    run = jaxae.make_run(zero, optimizer, batch_size=1)
    state, kept = jaxae.create_train_state(jnp.zeros(()), optimizer), InMemory(questions=0)
    with pytest.raises(jaxae.NonFiniteLossError, match="epoch 1"):
        jaxae.fit(run, state, jax.random.key(0), X[:3], epochs=2, checkpoints=kept)
    assert not kept.saved


def test_losses_keep_their_epochs_when_a_run_goes_on_beyond_its_end(one_by_one):
    states, keys = starts()
    kept, seen = InMemory(), []
    note = lambda epoch, loss: seen.append((epoch, loss))
    data = keys[0], X, LEVELS[0]
    options = {"on_epoch": note, "checkpoints": kept}
    half = jaxae.fit(RUN, of_model(states, 0), *data, epochs=3, **options)
    jaxae.fit(RUN, half, *data, epochs=3, first_epoch=3, **options)
    assert seen == one_by_one[1][0]
    seen.clear()
    jaxae.fit(RUN, half, *data, epochs=3, first_epoch=3, **options)
    assert seen == one_by_one[1][0][3:]


def test_where_a_run_stopped_is_said_in_steps(monkeypatch):
    monkeypatch.setattr(_drive, "_FIRST_BLOCKS", 3)
    loss = lambda params, key, x: jnp.square(params - x[:, 0])
    run = jaxae.make_run(loss, optax.sgd(0.1), batch_size=1)
    state, kept = jaxae.create_train_state(jnp.zeros(()), optax.sgd(0.1)), InMemory(questions=0)
    many = jnp.ones((300, 1))  # steps in pairs
    with pytest.raises(jaxae.StoppedError, match="stopped after 0 epochs and 6 steps"):
        jaxae.fit(run, state, jax.random.key(0), many, epochs=2, checkpoints=kept)
    assert kept.saved[0][-1].step == 6


def test_the_search_for_nans_finds_none_in_a_sound_run():
    optimizer = optax.sgd(0.25)
    loss = lambda params, key, x: jnp.square(params - x[:, 0])
    run = jaxae.make_run(loss, optimizer, batch_size=5)
    state = jaxae.create_train_state(jnp.zeros(()), optimizer)
    with jax.debug_nans(True):
        state = jaxae.fit(run, state, jax.random.key(0), jnp.ones((5, 1)), epochs=2)
    assert float(state.params) == 0.75


def test_raw_keys_train_as_typed_ones_do():
    run, states, _ = tiny(2)
    raw = jax.random.split(jax.random.PRNGKey(1))
    trained = jaxae.fit_many(run, states, raw, X, LEVELS[1:], epochs=2, method="threads")
    key = jax.random.wrap_key_data(raw[1])
    same(of_model(trained, 1), jaxae.fit(run, of_model(states, 1), key, X, LEVELS[2], epochs=2))


@pytest.mark.usefixtures("no_type_hook")
@pytest.mark.parametrize("keys", [np.zeros((2, 3), np.uint32), np.zeros(2, np.uint32), [0, 1], 3])
def test_keys_that_are_none_are_refused_in_a_line(keys):
    run, states, _ = tiny(2)
    with pytest.raises(TypeError, match="keys must be PRNG keys, one for each of the m models"):
        jaxae.fit_many(run, states, keys, X, LEVELS[1:], epochs=2)


def test_a_run_without_compilation_is_refused_in_a_line():
    run, states, keys = tiny()
    match = "cannot work under jax.disable_jit; .*make_train_step"
    with jax.disable_jit(), pytest.raises(ValueError, match=match):
        jaxae.fit(run, of_model(states, 0), keys[0], X, 0.1, epochs=1)
    with jax.disable_jit(), pytest.raises(ValueError, match=match):
        jaxae.fit_many(run, states, keys, X, LEVELS, epochs=1)
