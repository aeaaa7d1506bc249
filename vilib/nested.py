"""One set of draws, every estimator, every S.

Each score-function estimator of S draws is a function of a few sums over them: Σf, Σs, Σf s, Σs², Σf s².  So the sums over the first
1, 2, 4, …, S_max draws, each draw visited once, give what every estimator would have returned at every S: the two answers to *how noisy
is one gradient?* and *what does S buy?* from the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vilib.control_variates import coefficient_from_sums, fold_sum
from vilib.draws import Draws, per_draw
from vilib.families import Gaussian
from vilib.types import ShapeError

def nested_gradients(
    draws: Draws, estimators: Sequence[str] | None = None, *, sample_counts: Sequence[int] | None = None,
    baseline: float | Tensor = 0.0,
) -> dict[str, Tensor]:
    """What each estimator returns on the first S of these draws, for every S: name -> (len(sample_counts), *R, P').

    estimators: among "score_function", "constant_baseline" (its b is ``baseline``, a number or (*R, P')), "mean_baseline" (the
        other half's mean), "leave_one_out", "optimal_coefficient", "pathwise", "sticking_the_landing", "total_derivative"; by
        default all that these draws allow.
    sample_counts: powers of two up to the number of draws; by default 1, 2, 4, ….

    Where an estimator needs two draws, S = 1 gives nan.  Raises ShapeError (counts), KeyError (names).

    >>> from vilib import MeanFieldGaussian, normal
    >>> q = MeanFieldGaussian(torch.ones(1), torch.zeros(1))
    >>> eps = normal(64, (500,), 1, generator=torch.Generator().manual_seed(0))
    >>> nested_gradients(per_draw(lambda z: z.square().sum(-1), q, eps))["pathwise"].shape
    torch.Size([7, 500, 2])
    """
    return _compose_all(lambda part: draws[part], len(draws), draws.elbo, estimators, sample_counts, baseline)


def nested_study(
    f: Callable[[Tensor], Tensor], q: Gaussian, eps: Tensor, estimators: Sequence[str] | None = None, *, elbo: bool = False,
    sample_counts: Sequence[int] | None = None, baseline: float | Tensor = 0.0, coordinates: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """:func:`per_draw` and :func:`nested_gradients` in one, a block of draws at a time, so that the work stays in the cache.

    f, q, eps, elbo, coordinates as for :func:`vilib.draws.per_draw`, the rest as for :func:`nested_gradients`.

    >>> from vilib import MeanFieldGaussian, normal
    >>> q = MeanFieldGaussian(torch.ones(1), torch.zeros(1))
    >>> eps = normal(64, (500,), 1, generator=torch.Generator().manual_seed(0))
    >>> nested_study(lambda z: z.square().sum(-1), q, eps, ("score_function", "pathwise"))["pathwise"].shape
    torch.Size([7, 500, 2])
    """
    draw = lambda part: per_draw(f, q, eps[part], elbo=elbo, coordinates=coordinates)  # noqa: E731
    return _compose_all(draw, len(eps), elbo, estimators, sample_counts, baseline)


def gradient_from_draws(draws: Draws, name: str, baseline: float | Tensor = 0.0) -> Tensor:
    """The estimate (*R, P') that estimator ``name`` returns on all of these S draws, S a power of two.

    >>> from vilib import MeanFieldGaussian
    >>> q, eps = MeanFieldGaussian(torch.ones(1), torch.zeros(1)), torch.tensor([[1.0], [-1.0]])
    >>> gradient_from_draws(per_draw(lambda z: z.square().sum(-1), q, eps), "pathwise")
    tensor([2., 2.])
    """
    return nested_gradients(draws, (name,), sample_counts=(len(draws),), baseline=baseline)[name][0]


def _compose_all(
    draws_in: Callable[[slice], Draws], num_draws: int, elbo: bool, estimators: Sequence[str] | None,
    sample_counts: Sequence[int] | None, baseline: float | Tensor,
) -> dict[str, Tensor]:
    """``draws_in(slice)`` are the draws of that slice."""
    available = [name for name in COMPOSED if elbo or name not in ("sticking_the_landing", "total_derivative")]
    names = list(available if estimators is None else estimators)
    unknown = [name for name in names if name not in available]
    if unknown:
        raise KeyError(f"estimators: {unknown} not available for these draws; choose from {available}.")
    counts = list(sample_counts or [2**k for k in range(num_draws.bit_length())])
    if any(s < 1 or s & (s - 1) or s > num_draws for s in counts):
        raise ShapeError(f"sample_counts: powers of two up to the {num_draws} draws there are, got {counts}.")

    first = draws_in(slice(0, min(num_draws, 64)))
    centre = first.f.mean(0).unsqueeze(-1)                 # f is summed about it, for the rounding; see Sums.about
    evaluate = draws_in
    draws_in = lambda part: first[part] if part.stop <= len(first) else evaluate(part)  # noqa: E731
    wanted = {key for name in names for key in COMPOSED[name].needs}
    results: dict[str, dict[int, Tensor]] = {name: {} for name in names}
    for num_samples, blocks in _blocks_by_count(draws_in, centre, counts, wanted):
        if num_samples in counts:
            sums = Sums(num_samples, blocks, centre, baseline, first.score_variance)
            for name in names:
                results[name][num_samples] = COMPOSED[name].compose(sums)
    return {name: torch.stack([by_count[s] for s in counts]) for name, by_count in results.items()}


@dataclass(frozen=True)
class Sums:
    """Sums over the first ``n`` draws, in K = min(n, 8) equal blocks: blocks[name] is (K, *R, P').

    f in them is f − centre.  What learns its baseline does not notice; the others put it back.
    """

    n: int
    blocks: dict[str, Tensor]
    centre: Tensor
    baseline: float | Tensor
    score_variance: Tensor

    def mean(self, name: str) -> Tensor:
        return self.blocks[name].sum(0) / self.n

    def about(self, b: float | Tensor) -> Tensor:
        """The mean of (f − b) s."""
        return self.mean("fs") + (self.centre - b) * self.mean("s")

    def needs_two(self, gradient: Callable[[], Tensor]) -> Tensor:
        return gradient() if self.n > 1 else torch.full_like(self.blocks["fs"][0], math.nan)


@dataclass(frozen=True)
class _Composed:
    needs: tuple[str, ...]
    compose: Callable[[Sums], Tensor]


def _blocks_by_count(
    draws_in: Callable[[slice], Draws], centre: Tensor, counts: Sequence[int], wanted: set[str]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield (S, blocks) from the smallest S of ``counts``, doubling: then the old blocks merge in pairs and new ones are summed."""
    blocks: dict[str, Tensor] = {}
    begin, end = 0, min(counts)
    while end <= max(counts):
        num_new = min(end - begin, 4 if begin else 8)
        size = (end - begin) // num_new
        parts = [_block(draws_in(slice(i, i + size)), centre, wanted) for i in range(begin, end, size)]
        new = {name: torch.stack([part[name] for part in parts]) for name in wanted}
        if blocks:
            new = {name: torch.cat([fold_sum(old, 4) if len(old) == 8 else old, new[name]]) for name, old in blocks.items()}
        blocks = new
        yield end, blocks
        begin, end = end, 2 * end


def _block(draws: Draws, centre: Tensor, wanted: set[str]) -> dict[str, Tensor]:
    """Each wanted product, summed over the block's draws: (*R, P')."""
    f, sums = draws.f.unsqueeze(-1) - centre, {}
    if "f" in wanted:
        sums["f"] = f.sum(0)
    if "s" in wanted:
        fs = f * draws.score
        sums["s"], sums["fs"] = draws.score.sum(0), fs.sum(0)
        if "s2" in wanted:
            sums["s2"], sums["fs2"] = draws.score.square().sum(0), (fs * draws.score).sum(0)
    if "path" in wanted:
        sums["path"] = draws.path_sum()
    return sums


def _leave_one_out(sums: Sums) -> Tensor:
    covariance = lambda: sums.mean("fs") - sums.mean("f") * sums.mean("s")  # noqa: E731
    return sums.needs_two(lambda: covariance() * sums.n / (sums.n - 1))


def _mean_baseline(sums: Sums) -> Tensor:
    def gradient() -> Tensor:
        f, s, fs = (fold_sum(sums.blocks[name], 2) for name in ("f", "s", "fs"))                # two halves
        return (fs - f.flip(0) / (sums.n // 2) * s).sum(0) / sums.n

    return sums.needs_two(gradient)


def _optimal_coefficient(sums: Sums) -> Tensor:
    def gradient() -> Tensor:
        folds = [sums.blocks[name] for name in ("f", "s", "fs", "s2", "fs2")]
        f, s, fs, s2, fs2 = (x.sum(0) - x for x in folds)
        a = coefficient_from_sums(f, s, fs, s2, fs2, sums.n - sums.n // len(folds[1]), sums.score_variance)
        return (sums.blocks["fs"] - a * sums.blocks["s"]).sum(0) / sums.n

    return sums.needs_two(gradient)


#: How each estimator is composed from the sums.
COMPOSED: dict[str, _Composed] = {
    "score_function": _Composed(("s", "fs"), lambda sums: sums.about(0.0)),
    "constant_baseline": _Composed(("s", "fs"), lambda sums: sums.about(sums.baseline)),
    "mean_baseline": _Composed(("f", "s", "fs"), _mean_baseline),
    "leave_one_out": _Composed(("f", "s", "fs"), _leave_one_out),
    "optimal_coefficient": _Composed(("f", "s", "fs", "s2", "fs2"), _optimal_coefficient),
    "pathwise": _Composed(("path",), lambda sums: sums.mean("path")),
    "sticking_the_landing": _Composed(("s", "path"), lambda sums: sums.mean("path") + sums.mean("s")),       # see Draws.stl
    "total_derivative": _Composed(("path",), lambda sums: sums.mean("path")),
}
