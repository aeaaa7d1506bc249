"""Each shortcut gives what the readable form gives."""

import pytest
import torch
from helpers import FAMILIES, readers_model, seeded

from vilib import NonFiniteLogJoint, gaussian_target, models, normal
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
