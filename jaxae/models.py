r"""Flax Linen autoencoders, and the pure per-example functions that come out of them.

Contract of this module. A model maps ONE example ``(*example,)`` to ONE code ``(k,)`` and
back; batching is left to ``jax.vmap``. Flax kernels are ``(inputs, outputs)``. The decoder
returns whatever the reconstruction loss takes: ``output_activation=None`` gives a mean or
logits, ``nn.sigmoid`` gives pixels for the lecture's squared error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxae import _checks

Activation = Callable[[Array], Array] | None
Initializer = Callable[..., Array]


class AutoencoderFunctions(NamedTuple):
    """A model as three pure functions.

    Attributes:
      init: ``init(key) -> params``, a pytree of arrays.
      encode: ``encode(params, x_i) -> code``, one example to one code ``(k,)``.
      decode: ``decode(params, code) -> x_hat_i``, one code to one decoder output.
    """

    init: Callable[[PRNGKeyArray], PyTree]
    encode: Callable[[PyTree, Array], Array]
    decode: Callable[[PyTree, Array], Array]


class DenseAutoencoder(nn.Module):
    """Dense encoder and decoder of any depth; without hidden layers, the lecture's model.

    The decoder mirrors the encoder. With ``tied`` its kernels are the encoder's,
    transposed; its biases are always its own.

    Attributes:
      example_shape: shape of one example; images are flattened.
      code_dim: number k of units of the code; may exceed the input (overcomplete).
      hidden_dims: widths between input and code, encoder order; empty for one layer.
      activation: nonlinearity after each hidden layer, or None.
      code_activation: nonlinearity of the code, or None for a linear code.
      output_activation: nonlinearity of the output, or None for means and logits.
      tied: whether the decoder shares the encoder's kernels.
      kernel_init: ``(key, (inputs, outputs), dtype) -> kernel``; Glorot uniform, as in
        the lecture's code (the Keras default).
      bias_init: ``(key, (outputs,), dtype) -> bias``.
      param_dtype: dtype of the parameters; give float64 data a float64 model.

    Example:
      >>> model = DenseAutoencoder((64,), code_dim=16, hidden_dims=(32,), tied=True)
      >>> init, encode, decode = as_functions(model)
      >>> params = init(jax.random.key(0))
      >>> encode(params, jnp.ones(64)).shape
      (16,)
    """

    example_shape: Sequence[int]
    code_dim: int
    hidden_dims: Sequence[int] = ()
    activation: Activation = nn.relu
    code_activation: Activation = None
    output_activation: Activation = None
    tied: bool = False
    kernel_init: Initializer = nn.initializers.glorot_uniform()
    bias_init: Initializer = nn.initializers.zeros_init()
    param_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        _checks.integer("code_dim", self.code_dim, low=1)
        for size in (*self.example_shape, *self.hidden_dims):
            _checks.integer("example_shape and hidden_dims", size, low=1)
        widths = [math.prod(self.example_shape), *self.hidden_dims, self.code_dim]
        pairs = list(itertools.pairwise(widths))
        up = [self._kernel(f"encoder_kernel_{i}", n, m) for i, (n, m) in enumerate(pairs)]
        if self.tied:
            down = [kernel.T for kernel in reversed(up)]
        else:
            mirrored = enumerate(reversed(pairs))
            down = [self._kernel(f"decoder_kernel_{i}", m, n) for i, (n, m) in mirrored]
        self.encoder_layers = [
            (kernel, self._bias(f"encoder_bias_{i}", kernel.shape[1]))
            for i, kernel in enumerate(up)
        ]
        self.decoder_layers = [
            (kernel, self._bias(f"decoder_bias_{i}", kernel.shape[1]))
            for i, kernel in enumerate(down)
        ]

    def encode(self, x_i: Float[Array, " *example"]) -> Float[Array, " k"]:
        """Returns the code of one example."""
        x_i = _checks.floating("x_i", x_i)
        if x_i.size != math.prod(self.example_shape):
            raise ValueError(_not_one("x_i", "example", tuple(self.example_shape), x_i))
        return self._stack(self.encoder_layers, x_i.reshape(-1), self.code_activation)

    def decode(self, code: Float[Array, " k"]) -> Float[Array, " *example"]:
        """Returns the decoder's output for one code, in the shape of an example."""
        code = _one_code(code, self.code_dim)
        flat = self._stack(self.decoder_layers, code, self.output_activation)
        return flat.reshape(tuple(self.example_shape))

    def __call__(self, x_i: Float[Array, " *example"]) -> Float[Array, " *example"]:
        """Returns decode(encode(x_i))."""
        return self.decode(self.encode(x_i))

    def _kernel(self, name: str, inputs: int, outputs: int) -> Array:
        return self.param(name, self.kernel_init, (inputs, outputs), self.param_dtype)

    def _bias(self, name: str, outputs: int) -> Array:
        return self.param(name, self.bias_init, (outputs,), self.param_dtype)

    def _stack(self, layers: Sequence[tuple[Array, Array]], h: Array, last: Activation) -> Array:
        for kernel, bias in layers[:-1]:
            h = _activate(self.activation, h @ kernel + bias)
        kernel, bias = layers[-1]
        return _activate(last, h @ kernel + bias)


class ConvAutoencoder(nn.Module):
    """Strided convolutions to a code and transposed convolutions back, for images (H, W, C).

    Every stage halves height and width, rounding up; the decoder crops what rounding added.

    Attributes:
      example_shape: shape (H, W, C) of one image.
      code_dim: number k of units of the code.
      channels: channels after each stage, encoder order; at least one.
      kernel_size: side of the square convolution kernels, in pixels.
      activation: nonlinearity after each convolution but the last of the decoder.
      code_activation: nonlinearity of the code, or None for a linear code.
      output_activation: nonlinearity of the output, or None for means and logits.
      kernel_init: ``(key, shape, dtype) -> kernel`` for dense and convolution kernels.
      bias_init: ``(key, shape, dtype) -> bias``.
      param_dtype: dtype of the parameters; give float64 data a float64 model.

    Example:
      >>> init, encode, decode = as_functions(ConvAutoencoder((8, 8, 1), code_dim=16))
      >>> params = init(jax.random.key(0))
      >>> decode(params, encode(params, jnp.ones((8, 8, 1)))).shape
      (8, 8, 1)
    """

    example_shape: Sequence[int]
    code_dim: int
    channels: Sequence[int] = (16, 32)
    kernel_size: int = 3
    activation: Activation = nn.relu
    code_activation: Activation = None
    output_activation: Activation = None
    kernel_init: Initializer = nn.initializers.glorot_uniform()
    bias_init: Initializer = nn.initializers.zeros_init()
    param_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        if len(self.example_shape) != 3:
            raise ValueError(
                f"example_shape must be (height, width, channels), but it is {self.example_shape}"
            )
        if not self.channels:
            raise ValueError("channels must name at least one stage, but it is empty")
        for name in ("code_dim", "kernel_size"):
            _checks.integer(name, getattr(self, name), low=1)
        for size in (*self.example_shape, *self.channels):
            _checks.integer("example_shape and channels", size, low=1)
        common: dict[str, Any] = {
            "kernel_init": self.kernel_init,
            "bias_init": self.bias_init,
            "param_dtype": self.param_dtype,
        }
        window: dict[str, Any] = {
            "kernel_size": (self.kernel_size, self.kernel_size),
            "strides": (2, 2),
            **common,
        }
        halvings = [2**stage for stage in range(len(self.channels) + 1)]
        height, width, depth = self.example_shape
        self.sides = [(-(-height // h), -(-width // h)) for h in halvings]
        self.down = [nn.Conv(c, **window) for c in self.channels]
        outputs = (*reversed(self.channels[:-1]), depth)
        self.up = [nn.ConvTranspose(c, **window) for c in outputs]
        self.to_code = nn.Dense(self.code_dim, **common)
        self.from_code = nn.Dense(math.prod(self.sides[-1]) * self.channels[-1], **common)

    def encode(self, x_i: Float[Array, "h w c"]) -> Float[Array, " k"]:
        """Returns the code of one image."""
        h = _checks.floating("x_i", x_i)
        if h.shape != tuple(self.example_shape):
            raise ValueError(_not_one("x_i", "example", tuple(self.example_shape), h))
        for conv in self.down:
            h = _activate(self.activation, conv(h))
        return _activate(self.code_activation, self.to_code(h.reshape(-1)))

    def decode(self, code: Float[Array, " k"]) -> Float[Array, "h w c"]:
        """Returns the decoder's output (H, W, C) for one code."""
        h = _activate(self.activation, self.from_code(_one_code(code, self.code_dim)))
        h = h.reshape(*self.sides[-1], self.channels[-1])
        targets = list(reversed(self.sides[:-1]))
        for stage, (conv, (height, width)) in enumerate(zip(self.up, targets, strict=True)):
            is_last = stage == len(targets) - 1
            h = conv(h)[:height, :width]
            h = _activate(self.output_activation if is_last else self.activation, h)
        return h

    def __call__(self, x_i: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns decode(encode(x_i))."""
        return self.decode(self.encode(x_i))


def as_functions(model: DenseAutoencoder | ConvAutoencoder) -> AutoencoderFunctions:
    """Returns a model as pure per-example functions ``init``, ``encode`` and ``decode``.

    Args:
      model: an autoencoder module with ``example_shape``, ``param_dtype``, ``encode`` and
        ``decode``.

    Returns:
      Three pure functions; ``functools.partial(encode, params)`` is what the losses take.

    Raises:
      TypeError: if ``model`` is no Flax Linen module with these.

    Example:
      >>> init, encode, decode = as_functions(DenseAutoencoder((4,), code_dim=2))
      >>> params = init(jax.random.key(0))
      >>> decode(params, encode(params, jnp.ones(4))).shape
      (4,)

    References:
      Flax Linen, ``Module.apply``. Deviation: none.
    """
    parts = ("example_shape", "param_dtype", "encode", "decode")
    if not isinstance(model, nn.Module) or not all(hasattr(model, part) for part in parts):
        raise TypeError(
            f"model must be a Flax Linen module with {', '.join(parts)}, "
            f"but it is a {type(model).__name__}"
        )

    compiled_init = jax.jit(model.init)

    def init(key: PRNGKeyArray) -> PyTree:
        _checks.prng_key("key", key)
        example = jnp.zeros(tuple(model.example_shape), model.param_dtype)
        return compiled_init(key, example)["params"]

    def encode(params: PyTree, x_i: Array) -> Array:
        return model.apply({"params": params}, x_i, method="encode")  # type: ignore[return-value]

    def decode(params: PyTree, code: Array) -> Array:
        return model.apply({"params": params}, code, method="decode")  # type: ignore[return-value]

    return AutoencoderFunctions(init, encode, decode)


def _one_code(code: Array, code_dim: int) -> Array:
    """Returns a code, if it is one of this model."""
    code = _checks.floating("code", code)
    if code.shape != (code_dim,):
        raise ValueError(_not_one("code", "code", (code_dim,), code))
    return code


def _not_one(name: str, what: str, shape: tuple[int, ...], found: Array) -> str:
    return (
        f"{name} must be ONE {what} of shape {shape}, but its shape is {found.shape}; "
        "for a batch wrap the function in jax.vmap"
    )


def _activate(activation: Activation, h: Array) -> Array:
    return h if activation is None else activation(h)
