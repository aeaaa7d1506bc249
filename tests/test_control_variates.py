"""A baseline may look at every draw but its own."""

import pytest
import torch
from helpers import seeded

from vilib import ShapeError, constant_baseline, cross_fitted_coefficient, leave_one_out_mean, other_half_mean
from vilib.control_variates import PSEUDO_DRAWS, count_folds, fold_sum

close = torch.testing.assert_close

LEARNT = {
    "leave_one_out_mean": leave_one_out_mean, "other_half_mean": other_half_mean,
    "cross_fitted_coefficient": lambda f, s: cross_fitted_coefficient(f, s, torch.ones(s.shape[1:], dtype=s.dtype)),
}
every_learnt = pytest.mark.parametrize("baseline", LEARNT.values(), ids=LEARNT)


def some(num_samples, batch=(), num_parameters=3):
    generator = seeded(4)
    f = torch.randn((num_samples, *batch), generator=generator, dtype=torch.float64)
    return f, torch.randn((num_samples, *batch, num_parameters), generator=generator, dtype=torch.float64)


def assert_leaves_out_its_own(baseline, num_samples: int) -> None:
    """No baseline of a draw moves when that draw's f and score do.  A baseline with its own sample must fail this."""
    f, score = some(num_samples)
    for s in range(num_samples):
        other_f, other_score = f.clone(), score.clone()
        other_f[s] += 5.0
        other_score[s] -= 3.0
        close(baseline(f, score)[s], baseline(other_f, other_score)[s], rtol=1e-9, atol=1e-9)


@every_learnt
@pytest.mark.parametrize("num_samples", [2, 3, 5, 8, 16, 24])
def test_no_learnt_baseline_looks_at_its_own_draw(baseline, num_samples):
    assert_leaves_out_its_own(baseline, num_samples)


def test_the_plain_mean_does_look():
    with pytest.raises(AssertionError):
        assert_leaves_out_its_own(lambda f, score: f.mean(0).expand_as(f).unsqueeze(-1), 8)


@every_learnt
def test_adding_a_constant_to_f_adds_it_to_the_baseline(baseline):
    f, score = some(16)
    close(baseline(f + 1e6, score), baseline(f, score) + 1e6, rtol=1e-12, atol=1e-6)


@every_learnt
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_a_batch_is_each_ones_own(baseline, batch):
    f, score = some(8, batch)
    b = baseline(f, score)
    assert b.shape[:-1] == f.shape and b.shape[-1] in (1, 3)
    last = (slice(None), *(-1 for _ in batch))
    close(b[last], baseline(f[last], score[last]))


@every_learnt
def test_one_draw_is_not_enough(baseline):
    with pytest.raises(ShapeError, match="num_samples: .* needs at least 2 draws, got 1"):
        baseline(*some(1))


def test_leave_one_out_is_the_mean_of_the_others():
    f, score = some(5)
    for s in range(5):
        close(leave_one_out_mean(f, score)[s, 0], torch.cat([f[:s], f[s + 1:]]).mean())


def test_the_other_half_of_an_odd_number():
    f = torch.tensor([1.0, 2.0, 6.0, 10.0, 20.0])
    assert other_half_mean(f)[:, 0].tolist() == [15, 15, 15, 3, 3]


def test_constants_are_constant():
    assert constant_baseline(2.5)(*some(4)) == 2.5


@pytest.mark.parametrize("num_samples, folds", [
    (2, 2), (3, 3), (7, 7), (8, 8), (9, 9), (10, 10), (13, 13), (16, 8), (20, 10), (24, 8), (64, 8),
])
def test_folds_are_equal_and_at_least_eight_where_there_are_so_many(num_samples, folds):
    assert count_folds(num_samples) == folds and num_samples % folds == 0


@pytest.mark.parametrize("num_samples", [2, 5, 16, 20])
def test_the_coefficient_is_the_formula_over_the_other_folds(num_samples):
    """a = f̄ + Σ (s − s̄)(f − f̄) s / (Σ (s − s̄)² + 8 Var s), all sums over the draws outside the fold."""
    f, score = some(num_samples)
    variance = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    size = num_samples // count_folds(num_samples)
    for s, found in enumerate(cross_fitted_coefficient(f, score, variance)):
        outside = torch.tensor([i // size != s // size for i in range(num_samples)])
        g, t = f[outside].unsqueeze(-1), score[outside]
        centred = t - t.mean(0)
        by_hand = g.mean(0) + (centred * (g - g.mean(0)) * t).sum(0) / (centred.square().sum(0) + PSEUDO_DRAWS * variance)
        close(found, by_hand, rtol=1e-9, atol=1e-9)


def test_with_many_draws_the_coefficient_is_the_optimal_constant():
    """For f = (1 + ε)² at μ = σ = 1 the best constants are d² + 3σ² = 4 and d² + 5σ² = 6."""
    eps = torch.randn(2**17, 1, generator=seeded(), dtype=torch.float64)
    score = torch.cat([eps, eps.square() - 1], -1)
    a = cross_fitted_coefficient((1 + eps[:, 0]).square(), score, torch.tensor([1.0, 2.0], dtype=torch.float64))
    close(a.mean(0), torch.tensor([4.0, 6.0], dtype=torch.float64), rtol=0.05, atol=0)


def test_the_coefficient_does_not_explode_where_scores_coincide():
    f, score = some(8)
    assert cross_fitted_coefficient(f, torch.ones_like(score), torch.ones(3, dtype=torch.float64)).abs().max() < 10


def test_fold_sums_are_sums_over_neighbours():
    assert fold_sum(torch.arange(6.0), 3).tolist() == [1, 5, 9]
