"""Each shortcut gives what the readable form gives."""

import pytest
import torch
from helpers import ESTIMATORS, EVERY_FAMILY, FAMILIES, by_autograd, readers_model, refusal, seeded

from vilib import NonFiniteLogJoint, ShapeError, gaussian_target, models, normal, pathwise, sticking_the_landing, tabulate
from vilib.draws import step_of
from vilib.models import value_and_slope

close = torch.testing.assert_close
every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
LARGE = (40, 30, 20)                                                      # 24,000 numbers: more than models._SMALL


def observations(z):
    """A log joint that keeps 50 numbers a draw for autograd."""
    x = torch.linspace(-1, 1, 1000, dtype=z.dtype).reshape(20, 50)
    return torch.nn.functional.logsigmoid(z @ x).sum(-1) - z.square().sum(-1)


def whole(log_joint, z):
    z = z.clone().requires_grad_()
    log_p = log_joint(z)
    return log_p.detach(), torch.autograd.grad(log_p.sum(), z)[0]


def test_many_draws_in_parts_are_the_draws_at_once(monkeypatch):
    z, sizes = normal(*(LARGE[0], LARGE[1:2], LARGE[2]), generator=seeded(), dtype=torch.float64), []
    monkeypatch.setattr(models, "_CACHED", 2**13)

    def watched(z):
        sizes.append(len(z))
        return observations(z)

    for found, exact in zip(value_and_slope(watched, z), whole(observations, z)):
        close(found, exact)
    assert sum(sizes) == 40 and sizes[0] == 1 and sizes[1] == 2**13 // (30 * 50)          # no draw twice, parts of the size wanted


def test_a_batch_that_the_log_joint_knows_is_never_cut():
    """*R may be data points, each with a log joint of its own: only S may be cut."""
    centres = torch.linspace(-1, 1, 600, dtype=torch.float64).reshape(30, 20)
    z = normal(40, (30,), 20, generator=seeded(), dtype=torch.float64)
    close(value_and_slope(lambda z: -0.5 * (z - centres).square().sum(-1), z)[1], centres - z)


def test_every_replicate_that_is_not_finite_is_named_whichever_part_it_is_in():
    z = normal(40, (30,), 20, generator=seeded(), dtype=torch.float64)
    z[3, 7, 0], z[39, 11, 0] = torch.nan, torch.nan
    with pytest.raises(NonFiniteLogJoint) as caught:
        value_and_slope(observations, z)
    assert caught.value.replicates.nonzero().flatten().tolist() == [7, 11]


def test_a_log_joint_that_differentiates_on_its_own_account():
    """torch.func.grad refuses to run while saved tensors are counted; then nothing is counted."""
    inner = torch.func.vmap(torch.func.vmap(torch.func.grad(lambda x: (x**3).sum())))
    z = normal(40, (30,), 20, generator=seeded(), dtype=torch.float64)
    close(value_and_slope(lambda z: inner(z).sum(-1), z)[1], 6 * z)


def test_what_a_log_joint_raises_is_raised():
    def broken(z):
        raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        value_and_slope(broken, torch.zeros(LARGE))


def test_a_readers_model_in_parts():
    z = normal(300, (40,), 2, generator=seeded(), dtype=torch.float64)
    assert z.numel() > models._SMALL
    for found, exact in zip(value_and_slope(readers_model(), z), whole(readers_model(), z)):
        close(found, exact)


def test_both_at_once_is_preferred_and_checked():
    target = gaussian_target()

    class Both:
        def __call__(self, z):
            raise AssertionError("asked twice")

        def value_and_slope(self, z):
            return target(z), target.slope(z)

    z = torch.ones(3, 1, dtype=torch.float64)
    close(value_and_slope(Both(), z)[1], -z)
    with pytest.raises(NonFiniteLogJoint):
        value_and_slope(Both(), z * torch.inf)


@every_family
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_sums_over_draws_without_the_draws(make, batch):
    q, generator = make(*batch), seeded()
    eps, grad_z = (normal(5, batch, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = grad_z[..., 0].exp()
    close(q.pullback_sum(eps, grad_z), q.pullback(eps, grad_z).sum(0))
    close(q.pullback_sum(eps, grad_z, (2, 0)), q.pullback(eps, grad_z, (2, 0)).sum(0))
    close(q.score_sum(eps, weight), (weight.unsqueeze(-1) * q.score_at(eps)).sum(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("family", EVERY_FAMILY)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_step_of_a_fit_is_the_estimator_at_that_vector(name, family, batch, dtype):
    """Made for one λ, asked at another; by the estimator itself and autograd."""
    if refusal(name, family):
        return
    estimator, made, asked = ESTIMATORS[name], EVERY_FAMILY[family](*batch, dtype=dtype), EVERY_FAMILY[family](*batch, dtype=dtype, seed=7)
    eps = normal(4, batch, 2, generator=seeded(), dtype=dtype)
    step = step_of(estimator, readers_model(), made)
    tolerance = dict(rtol=1e-12, atol=1e-12) if dtype == torch.float64 else dict(rtol=2e-5, atol=2e-5)
    for found, exact in zip(step(asked.vector(), eps), by_autograd(estimator, readers_model(), asked, eps)):
        assert not found.requires_grad
        close(found, exact, **tolerance)


@pytest.mark.parametrize("estimator", [pathwise, sticking_the_landing], ids=lambda e: e.__name__)
def test_a_step_takes_a_log_joint_that_brings_its_slope_and_one_with_parameters_of_its_own(estimator):
    q, target = FAMILIES["mean-field"](3, dim=1), gaussian_target(0.3, 2.0)
    eps, vector = normal(4, (3,), 1, generator=seeded(), dtype=torch.float64), q.vector()
    exact = by_autograd(estimator, target, q, eps)
    scale = torch.ones(1, dtype=torch.float64, requires_grad=True)
    trained = lambda z: scale.squeeze() * target(z)                                       # noqa: E731
    trained_too = type("WithSlope", (), {"__call__": lambda self, z: trained(z), "slope": lambda self, z: scale * target.slope(z)})()
    for log_joint in (target, tabulate(target, -20.0, 20.0), trained, trained_too):
        for found, value in zip(step_of(estimator, log_joint, q)(vector, eps), exact):
            assert not found.requires_grad
            close(found, value, rtol=1e-8, atol=1e-8)


def test_a_step_refuses_noise_of_another_shape():
    q = FAMILIES["mean-field"](3)
    with pytest.raises(ShapeError, match=r"eps: expected \(S, \*R, D\) = \(S, 3, 2\) for this q, got \(4, 2\)"):
        step_of(pathwise, readers_model(), q)(q.vector(), torch.ones(4, 2, dtype=torch.float64))
