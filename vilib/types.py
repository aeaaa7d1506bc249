"""The shape law, the names of the moving parts, and what can go wrong with them.

The shape law, which every function of vilib keeps:

    draws z and noise ε      (S, *R, D)    S samples, any batch *R of independent problems, D coordinates
    log densities            (S, *R)
    an estimator's value     (*R)
    parameters λ, gradients  (*R, P)

``*R`` may be empty, or replicates of a gradient, or parallel fits, or data points of an encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

#: z (..., D) -> log p(x, z) (...), on unconstrained coordinates.  It may bring its own gradient, see :func:`vilib.models.value_and_slope`.
LogJoint = Callable[[Tensor], Tensor]

#: (num_samples, batch_shape, dim, *, generator, dtype) -> ε (S, *R, D); see :mod:`vilib.noise`.
Noise = Callable[..., Tensor]


class Family(Protocol):
    """What every q can do, ours and one of your own; :class:`MeanFieldGaussian` says what each of them means."""

    @property
    def reparameterizable(self) -> bool: ...
    @property
    def dim(self) -> int: ...
    @property
    def batch_shape(self) -> torch.Size: ...
    @property
    def num_parameters(self) -> int: ...
    @property
    def mean(self) -> Tensor: ...

    def transform(self, eps: Tensor, /) -> Tensor: ...
    def sample(self, eps: Tensor, /) -> Tensor: ...
    def log_prob(self, z: Tensor, /) -> Tensor: ...
    def entropy(self) -> Tensor: ...
    def score(self, z: Tensor, coordinates: Sequence[int] | None = None, /) -> Tensor: ...
    def score_variance(self, coordinates: Sequence[int] | None = None, /) -> Tensor: ...
    def vector(self) -> Tensor: ...
    def with_vector(self, vector: Tensor, /) -> Self: ...
    def parameter_names(self) -> tuple[str, ...]: ...
    def detach(self) -> Self: ...
    def expand(self, *batch: int) -> Self: ...


#: A family: what goes in as q comes out as a q of the same kind.
Q = TypeVar("Q", bound=Family)

#: (log_joint, q, eps) -> an ELBO estimate (*R) whose gradient is the gradient estimate.
Estimator = Callable[[LogJoint, Any, Tensor], Tensor]

#: (f (S, *R), score (S, *R, P)) -> a baseline that broadcasts against the score.
Baseline = Callable[[Tensor, Tensor], Any]


class VilibError(ValueError):
    """Something handed to vilib cannot be used; the message names it and the mend."""


class ShapeError(VilibError):
    """A tensor has the wrong shape, or there are too few samples for what is asked."""


class NonScalarLogJoint(ShapeError):
    """The log joint does not return one number a draw."""


class NonFiniteLogJoint(VilibError):
    """The log joint returned nan or an infinity.

    ``z`` (D,) is a draw that gave it, ``theta`` the same draw on the reader's own scale (or None),
    ``value`` what came back, and ``replicates`` (*R) marks every problem of the batch that is hit.
    """

    def __init__(self, message: str, z: Tensor, theta: dict[str, Tensor] | None, value: float, replicates: Tensor):
        super().__init__(message)
        self.z, self.theta, self.value, self.replicates = z, theta, value, replicates


class UnsupportedSupport(VilibError):
    """A parameter's support is not one that vilib can map to the real line."""


class NotBatchable(VilibError):
    """The reader's model runs on one draw, but not on many at once."""


class MissingGenerator(VilibError):
    """Noise was asked for without a ``torch.Generator``."""


class GeneratorDeviceError(VilibError):
    """The generator lives on another device than the numbers it is to make."""


class NotReparameterizable(VilibError):
    """A pathwise estimator was given a family that has no differentiable ``transform``."""


class NotFactorized(VilibError):
    """An estimator that works coordinate by coordinate was given a family whose coordinates depend on each other."""


class DependentDraws(VilibError):
    """An estimator that needs independent draws was given noise whose draws depend on each other."""


class MissingPackage(VilibError, ImportError):
    """A function needs a package that is not installed; the message says how to install it."""


class NotConverged(UserWarning):
    """A fit used up its steps before its stopping rule was met; the message says how far it is."""


class AllFitsFailed(VilibError):
    """Every fit of a batch diverged.  ``failed_at`` (*R) holds the step of each."""

    def __init__(self, message: str, failed_at: Tensor):
        super().__init__(message)
        self.failed_at = failed_at


class NoMode(VilibError):
    """Climbing the log joint did not end on a mode that is curved downward on all sides.

    ``z`` (D,) is where one of the climbs ended, ``replicates`` (*R) marks every problem of the batch that failed.
    """

    def __init__(self, message: str, z: Tensor, replicates: Tensor):
        super().__init__(message)
        self.z, self.replicates = z, replicates


def check_generator(generator: torch.Generator | None, device: torch.device | str | None = None) -> torch.Generator:
    """Return ``generator`` if it is one and lives on ``device`` (None: anywhere); otherwise say what to do.

    Raises MissingGenerator, GeneratorDeviceError.

    >>> check_generator(torch.Generator().manual_seed(0), "cpu").device
    device(type='cpu')
    """
    if not isinstance(generator, torch.Generator):
        raise MissingGenerator(
            f"generator: expected a torch.Generator, got {generator!r}. vilib never touches the global seed; "
            "pass generator=torch.Generator().manual_seed(0)."
        )
    if device is not None and generator.device.type != torch.device(device).type:
        raise GeneratorDeviceError(
            f"generator: it lives on '{generator.device}', the parameters on '{device}'. "
            f"Pass torch.Generator('{device}').manual_seed(0), or move the parameters."
        )
    return generator


def check_noise(q: Any, eps: Tensor) -> None:
    """Raise ShapeError if eps is not (S, *R, D) for this q, of whatever family."""
    expected = (*q.batch_shape, q.dim)
    if eps.shape[1:] != expected:
        raise ShapeError(
            f"eps: expected (S, *R, D) = (S, {', '.join(map(str, expected))}) for this q, got {tuple(eps.shape)}. "
            "Draw it with noise(num_samples, q.batch_shape, q.dim, generator=...)."
        )


def check_finite(data: Tensor) -> None:
    """Raise VilibError if a row of data (N, ...) holds nan or an infinity.

    >>> check_finite(torch.zeros(3, 2))
    """
    if not bool(data.isfinite().all()):
        row = (~data.isfinite()).flatten(1).any(1).nonzero()[0].item()
        raise VilibError(f"data: row {row} holds nan or an infinity. Leave such rows out, or fill them in.")
