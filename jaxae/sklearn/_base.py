"""What the three estimators share: all but their training loss."""

import inspect
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxae import _checks
from jaxae.random import hash_key
from jaxae.sklearn import _files
from jaxae.sklearn._early_stopping import EarlyStopping
from jaxae.sklearn._network import (
    LOSSES,
    Architecture,
    Network,
    Objective,
    Params,
    Training,
    apply_to_rows,
    check_activation,
    make_network,
    make_training,
)
from jaxae.training.errors import StoppedError
from jaxae.training.runs import fit
from jaxae.training.steps import TrainState

_FLOATS = (np.float64, np.float32)
_Self = TypeVar("_Self", bound="Autoencoder")


# scikit-learn takes the parameters of an estimator from the signature of __init__. A dataclass
# writes it: a subclass has the parameters of its base without repeating them.
@dataclass(kw_only=True, eq=False, repr=False)
class Autoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The estimator without a training loss, which a subclass has in ``_choose_objective``.

    Args:
      n_components: number of units of the code.
      hidden_layer_sizes: widths of the layers between input and code; the decoder mirrors them.
      activation: nonlinearity of the hidden layers: "identity", "relu", "sigmoid" or "tanh".
      code_activation: nonlinearity of the code, one of the same.
      tied_weights: whether the decoder has the kernels of the encoder, transposed.
      loss: reconstruction loss: "squared_error", for real numbers; "cross_entropy", for features in
        [0, 1], with a sigmoid at the output; or "auto", which is the cross-entropy if
        ``standardize`` is False and the table of ``fit`` lies in [0, 1], else the squared error.
      standardize: whether to subtract the mean of each feature and divide by its standard
        deviation, inside the estimator.
      learning_rate: step size of Adam.
      batch_size: rows in a step of training.
      max_iter: passes over the table, at most.
      early_stopping: whether to hold rows out, to stop when their error no longer falls, and to
        keep the parameters with the least.
      validation_fraction: share of the rows that are held out.
      n_iter_no_change: passes without a smaller error after which the training stops.
      random_state: number or ``RandomState`` that decides initial parameters, shuffles, noise and
        held-out rows; None for other ones in each call of ``fit``.
      verbose: whether to print the loss of each pass.

    Attributes:
      params_: parameters of the network, a dictionary of arrays; kernels are (inputs, outputs).
      loss_function_: the reconstruction loss, as "auto" has chosen it.
      loss_curve_: mean training loss of each pass.
      n_iter_: number of passes.
      validation_scores_: score of the held-out rows after each pass, or None without early
        stopping.
      mean_: mean of each feature, or None without standardisation.
      scale_: standard deviation of each feature, or None without standardisation.
      n_features_in_: number of features of ``fit``.
      feature_names_in_: their names, where ``fit`` had a data frame.

    Raises:
      TypeError: in ``fit``, if a parameter is of the wrong kind.
      ValueError: in ``fit``, if a parameter has a value that is not allowed.
    """

    n_components: int = 16
    hidden_layer_sizes: Sequence[int] = ()
    activation: str = "relu"
    code_activation: str = "tanh"
    tied_weights: bool = False
    loss: str = "auto"
    standardize: bool = True
    learning_rate: float = 1e-3
    batch_size: int = 32
    max_iter: int = 200
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    random_state: int | np.random.RandomState | None = None
    verbose: bool = False

    def _choose_objective(self) -> tuple[Objective, tuple[float, ...]]:
        """Returns the training loss and the numbers that it depends on, once they are checked.

        A class returns the same function for all of its estimators, so that they share programs.
        """
        raise NotImplementedError

    def fit(self: _Self, X: Any, y: object = None) -> _Self:
        """Trains the autoencoder from the start, and returns it.

        Args:
          X: table of numbers ``(n_samples, n_features)``, finite: an array or a data frame.
          y: ignored.

        Returns:
          The estimator itself.

        Raises:
          TypeError: if a parameter is of the wrong kind.
          ValueError: if a parameter has a value that is not allowed, or ``X`` is not a finite table
            or, where the loss is the cross-entropy, not in [0, 1].
          NonFiniteLossError: if the training breaks down.
        """
        X = validate_data(self, X, dtype=_FLOATS)
        self._start(X)
        self._check_targets(X)
        self.validation_scores_ = None
        if not self.early_stopping:
            return self._train(X, self.max_iter)
        rows, early_stopping = self._hold_out(X)
        self._train(rows, self.max_iter, early_stopping)
        self.validation_scores_ = [-error for error in early_stopping.errors]
        return self

    def partial_fit(self: _Self, X: Any, y: object = None) -> _Self:
        """Trains the autoencoder for one pass over some more rows, and returns it.

        The first call starts the training: the mean and the scale of its rows stay those of the
        standardisation, and its values decide the loss of ``loss="auto"``. Tables of the same
        number of rows share a compiled program.

        Args:
          X: table of numbers ``(n_samples, n_features)``, finite: an array or a data frame.
          y: ignored.

        Returns:
          The estimator itself.

        Raises:
          TypeError: as in :meth:`fit`.
          ValueError: as in :meth:`fit`, or if the number of features has changed.
          NonFiniteLossError: if the training breaks down.
        """
        is_first = not hasattr(self, "params_")
        X = validate_data(self, X, dtype=_FLOATS, reset=is_first)
        if is_first:
            self._start(X)
        self._check_targets(X)
        return self._train(X, 1)

    def transform(self, X: Any) -> Any:
        """Returns the codes of the rows of a table.

        Args:
          X: table ``(n_samples, n_features)``.

        Returns:
          Codes ``(n_samples, n_components)`` in the dtype of ``X``; a data frame after
          ``set_output(transform="pandas")``.

        Raises:
          NotFittedError: before :meth:`fit`.
          ValueError: if ``X`` is not a finite table with the features of :meth:`fit`.
        """
        X = self._validate_rows(X)
        return self._apply(self._network.encode_rows, self._to_network(X)).astype(X.dtype)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Returns the rows that the decoder makes of some codes, in the units of the table.

        Args:
          X: codes ``(n_samples, n_components)``.

        Returns:
          Table ``(n_samples, n_features)`` in the dtype of ``X``.

        Raises:
          NotFittedError: before :meth:`fit`.
          ValueError: if ``X`` is not a finite table with a column for each component.
        """
        check_is_fitted(self)
        codes = check_array(X, dtype=_FLOATS)
        if codes.shape[1] != self._n_features_out:
            raise ValueError(
                f"X must be codes with {self._n_features_out} columns, one for each component, but "
                f"it has {codes.shape[1]}"
            )
        rows = self._apply(self._network.decode_rows, codes).astype(codes.dtype)
        return rows if self.scale_ is None else (rows * self.scale_ + self.mean_).astype(rows.dtype)

    def reconstruction_error(self, X: Any) -> np.ndarray:
        """Returns the reconstruction error of each row, which can serve as an anomaly score.

        It is the reconstruction loss of the row itself, without noise and penalty, summed over the
        features: large for a row unlike those of the training.

        Args:
          X: table ``(n_samples, n_features)``.

        Returns:
          Errors ``(n_samples,)`` in the dtype of ``X``: squared differences of what the network
          sees, hence of standardised features where ``standardize=True``; or nats, for the
          cross-entropy.

        Raises:
          NotFittedError: before :meth:`fit`.
          ValueError: if ``X`` is not a finite table with the features of :meth:`fit`, or is outside
            [0, 1] where the loss is the cross-entropy.
        """
        X = self._validate_rows(X)
        self._check_targets(X)
        return self._apply(self._network.row_errors, self._to_network(X)).astype(X.dtype)

    def score(self, X: Any, y: object = None) -> float:
        """Returns minus the mean reconstruction error: higher is better, as ``GridSearchCV`` wants.

        Compare scores only of estimators with the same loss and the same standardisation.

        Args:
          X: table ``(n_samples, n_features)``.
          y: ignored.

        Returns:
          A number, at most 0.

        Raises:
          NotFittedError: before :meth:`fit`.
          ValueError: as :meth:`reconstruction_error`.
        """
        return -float(np.mean(self.reconstruction_error(X), dtype=np.float64))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the fitted estimator to a safetensors file, which runs no code when it is read.

        The state of the optimiser is not in it: :meth:`partial_fit` after :meth:`load` begins with
        a new one. Nor is a ``random_state`` that is not a number.

        Args:
          path: the file, which is replaced if there is one.

        Raises:
          NotFittedError: before :meth:`fit`.
        """
        check_is_fitted(self)
        parameters = self.get_params()
        if isinstance(parameters["random_state"], np.random.RandomState):
            parameters["random_state"] = None
        names = getattr(self, "feature_names_in_", None)
        about = {
            "class": type(self).__name__,
            "parameters": parameters,
            "architecture": self._architecture,
            "seed": self._seed,
            "losses": self.loss_curve_,
            "feature_names": None if names is None else list(names),
        }
        arrays = {f"params/{name}": array for name, array in self.params_.items()}
        if self.scale_ is not None:
            arrays |= {"mean": self.mean_, "scale": self.scale_}
        _files.write(path, arrays, about)

    @classmethod
    def load(cls: type[_Self], path: str | os.PathLike[str]) -> _Self:
        """Returns the fitted estimator that :meth:`save` has written.

        Args:
          path: the file.

        Returns:
          A fitted estimator of this class.

        Raises:
          OSError: if there is no such file, or it cannot be read.
          ValueError: if the file is of another class, was not written by :meth:`save`, or is
            damaged.
        """
        arrays, about = _files.read(path)
        if about["class"] != cls.__name__:
            raise ValueError(f"{path} must hold a {cls.__name__}, but holds a {about['class']}")
        tuples = {name: tuple(v) for name, v in about["parameters"].items() if isinstance(v, list)}
        estimator = cls(**about["parameters"] | tuples)
        n_features, n_components, hidden, *others = about["architecture"]
        estimator._architecture = Architecture(n_features, n_components, tuple(hidden), *others)
        estimator._seed = about["seed"]
        estimator.n_features_in_ = n_features
        if about["feature_names"] is not None:
            estimator.feature_names_in_ = np.array(about["feature_names"], dtype=object)
        estimator.mean_, estimator.scale_ = arrays.pop("mean", None), arrays.pop("scale", None)
        params = {name.removeprefix("params/"): array for name, array in arrays.items()}
        state = estimator._make_training().create_state(jax.random.key(0))
        estimator._keep(state._replace(params=params), about["losses"])
        return estimator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def loss_function_(self) -> str:
        """The name of the reconstruction loss, as ``loss="auto"`` has chosen it."""
        return self._architecture.loss

    @property
    def _n_features_out(self) -> int:
        """How many columns the codes have; scikit-learn names them."""
        return self._architecture.n_components

    @property
    def _network(self) -> Network:
        """The functions of the network; they are not kept here, since they cannot be pickled."""
        return make_network(self._architecture)

    def _start(self, X: np.ndarray) -> None:
        """Chooses everything that the training of rows like X needs, and draws the parameters."""
        self._architecture = self._choose_architecture(X)
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.mean_, self.scale_ = None, None
        if self.standardize:
            scaler = StandardScaler().fit(X)
            self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        init_key, _ = jax.random.split(jax.random.key(self._seed))
        self._keep(self._make_training().create_state(init_key), [])

    def _choose_architecture(self, X: np.ndarray) -> Architecture:
        """Returns the architecture for rows like X, after checking the parameters that say so."""
        for name in ("activation", "code_activation"):
            check_activation(name, getattr(self, name))
        return Architecture(
            n_features=X.shape[1],
            n_components=_checks.integer("n_components", self.n_components, low=1),
            hidden_layer_sizes=tuple(
                _checks.integer("hidden_layer_sizes", size, low=1)
                for size in self.hidden_layer_sizes
            ),
            activation=self.activation,
            code_activation=self.code_activation,
            tied_weights=bool(self.tied_weights),
            loss=self._choose_loss(X),
            # As jaxae does everywhere: float64 data are float32 on the device unless x64 is on.
            dtype=jax.dtypes.canonicalize_dtype(X.dtype).name,
        )

    def _choose_loss(self, X: np.ndarray) -> str:
        """Returns the name of the reconstruction loss."""
        _checks.choice("loss", self.loss, ("auto", *LOSSES))
        if self.loss == "auto":
            is_unit = not self.standardize and X.min() >= 0 and X.max() <= 1
            return "cross_entropy" if is_unit else "squared_error"
        if self.loss == "cross_entropy" and self.standardize:
            raise ValueError(
                'loss="cross_entropy" needs features in [0, 1], and standardised ones are not; set '
                "standardize=False"
            )
        return self.loss

    def _make_training(self) -> Training:
        """Returns how the network is trained, after checking the parameters that say so."""
        objective, _ = self._choose_objective()
        _checks.number("learning_rate", self.learning_rate, low=0.0, strict=True)
        batch_size = _checks.integer("batch_size", self.batch_size, low=1)
        return make_training(self._architecture, objective, float(self.learning_rate), batch_size)

    def _train(
        self: _Self, X: np.ndarray, epochs: int, early_stopping: EarlyStopping | None = None
    ) -> _Self:
        """Trains for some more epochs, and keeps the last state, or the best on held-out rows."""
        _, settings = self._choose_objective()
        _, train_key = jax.random.split(jax.random.key(self._seed))
        losses = list(self.loss_curve_)

        def on_epoch(epoch: int, loss: float) -> None:
            losses.append(loss)
            if self.verbose:
                print(f"[{type(self).__name__}] epoch {epoch}, loss {loss:.5g}", flush=True)

        state = self._state
        # Adam raises a float to the power of an integer, which strict promotion would refuse. And
        # StoppedError is raised where the training has been told to stop early.
        with jax.numpy_dtype_promotion("standard"), suppress(StoppedError):
            state = fit(
                self._make_training().run,
                state,
                hash_key(train_key),
                self._to_network(X).astype(self._architecture.dtype),
                *settings,
                epochs=_checks.integer("max_iter", epochs, low=1),
                first_epoch=self.n_iter_,
                on_epoch=on_epoch,
                checkpoints=early_stopping,
            )
        self._keep(state if early_stopping is None else early_stopping.best_state, losses)
        return self

    def _hold_out(self, X: np.ndarray) -> tuple[np.ndarray, EarlyStopping]:
        """Returns the rows to train on, and the others, which tell when to stop."""
        _checks.number(
            "validation_fraction", self.validation_fraction, low=0.0, high=1.0, strict=True
        )
        patience = _checks.integer("n_iter_no_change", self.n_iter_no_change, low=1)
        rows, others = train_test_split(
            X, test_size=self.validation_fraction, random_state=self._seed
        )
        others = self._to_network(others)
        row_errors, dtype = self._network.row_errors, self._architecture.dtype

        def mean_error(params: Params) -> float:
            return float(apply_to_rows(row_errors, params, others, dtype).mean())

        return rows, EarlyStopping(mean_error, patience, self._state)

    def _keep(self, state: TrainState, losses: list[float]) -> None:
        """Keeps a state, in arrays of NumPy that every process and device can read."""
        self._state = jax.tree.map(np.array, state)
        self.params_ = self._state.params
        self.loss_curve_ = losses
        self.n_iter_ = len(losses)

    def _validate_rows(self, X: Any) -> np.ndarray:
        """Returns a table with the features of the training."""
        check_is_fitted(self)
        return validate_data(self, X, dtype=_FLOATS, reset=False)

    def _check_targets(self, X: np.ndarray) -> None:
        """Checks that the reconstruction loss takes the values of a table."""
        if self.loss_function_ == "cross_entropy" and (X.min() < 0 or X.max() > 1):
            raise ValueError(
                f"X must be in [0, 1] for the cross-entropy, but has values from {X.min():g} to "
                f'{X.max():g}; scale it, with MinMaxScaler(clip=True), or set loss="squared_error"'
            )

    def _to_network(self, X: np.ndarray) -> np.ndarray:
        """Returns a table as the network sees it."""
        return X if self.scale_ is None else (X - self.mean_) / self.scale_

    def _apply(self, function: Any, rows: np.ndarray) -> np.ndarray:
        """Returns the values of a compiled function for all rows."""
        return apply_to_rows(function, self.params_, rows, self._architecture.dtype)


def fill_docstring(estimator: type[_Self]) -> type[_Self]:
    """Adds to the docstring of a subclass what it shares with the others, and returns the class.

    The parameters of :class:`Autoencoder` take the place of the line ``{parameters}``, and all that
    stands behind them the place of ``{attributes}``.
    """
    shared = inspect.cleandoc(Autoencoder.__doc__ or "").partition("Args:\n")[2]
    parameters, heading, attributes = shared.partition("\n\nAttributes:\n")
    own = inspect.cleandoc(estimator.__doc__ or "")
    own = own.replace("  {parameters}", parameters)
    estimator.__doc__ = own.replace("{attributes}", heading.lstrip() + attributes)
    return estimator
