"""Each coordinate hears only the terms that touch it: by hand, and exactly, over every set of draws of a discrete q."""

from math import prod

import pytest
import torch
from helpers import (
    bernoulli, by_autograd, categorical, enumerated, every_batch, full_rank, gaussian, mean_field, noise_for,
    readers_model, seeded, tensor,
)

from vilib import (
    FactorizedLogJoint, NonFiniteLogJoint, NonScalarLogJoint, NotFactorized, ShapeError, VilibError, exact_elbo, exact_gradient,
    leave_one_out, normal, rao_blackwell, rao_blackwell_leave_one_out, score_function, value_of,
)
from vilib.control_variates import local_cost

close = torch.testing.assert_close
FAMILIES = {"mean-field": mean_field, "Bernoulli": bernoulli, "categorical": categorical}
every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)


def unit(z):
    return -0.5 * z.square().sum(-1)


def chain(dim: int) -> FactorizedLogJoint:
    """A random walk from 0, seen through a nonlinear likelihood: a term for each coordinate and each neighbouring pair."""
    step = lambda z: -2 * (z[..., 1] - z[..., 0]).square() + 0.3  # noqa: E731
    seen = lambda z: 1.5 * z[..., 0] - z[..., 0].exp()  # noqa: E731
    return FactorizedLogJoint(
        [(unit, [0]), *((step, [d, d + 1]) for d in range(dim - 1)), *((seen, [d]) for d in range(dim))])


def independent(offset: float, dim: int = 3) -> FactorizedLogJoint:
    """One term a coordinate, each with a constant of its own."""
    return FactorizedLogJoint([(lambda z, d=d: offset + (0.7 - d) * z[..., 0], [d]) for d in range(dim)])


# ---- the log joint --------------------------------------------------------------------------------------------------


def test_called_it_is_the_sum_and_local_sums_what_touches():
    z = torch.randn(5, 2, 4, generator=seeded(), dtype=torch.float64)
    joint = chain(4)
    steps = -2 * z.diff(dim=-1).square() + 0.3
    seen = 1.5 * z - z.exp()
    close(joint(z), unit(z[..., :1]) + steps.sum(-1) + seen.sum(-1))
    local = seen.clone()
    local[..., 0] += unit(z[..., :1])
    local[..., :-1] += steps
    local[..., 1:] += steps
    close(joint.local(z), local)
    assert joint.dim == 4 and joint.values(z).shape == (5, 2, 8)


def test_a_term_is_handed_its_own_coordinates_alone_and_in_its_order():
    seen = []
    joint = FactorizedLogJoint([(lambda z: seen.append(z) or z[..., 0], (2, 0)), (lambda z: z[..., 0], [1])])
    joint(tensor(10.0, 11.0, 12.0))
    assert [z.tolist() for z in seen] == [[12, 10]]


@pytest.mark.parametrize("terms, error, message", [
    ([], VilibError, r"terms: name at least one"),
    ([(unit, [])], VilibError, r"terms\[0\]: expected distinct coordinates counted from 0, at least one, got \[\]"),
    ([(unit, [0]), (unit, [1, 1])], VilibError, r"terms\[1\]: .*got \[1, 1\]"),
    ([(unit, [-1])], VilibError, r"terms\[0\]: .*got \[-1\]"),
    ([(unit, [0.5])], VilibError, r"terms\[0\]: .*got \[0.5\]"),
    ([(unit, [1]), (unit, [2])], ShapeError, r"terms: none touches coordinate 0 of 3.*count the coordinates from 0"),
])
def test_terms_that_make_no_log_joint_are_refused(terms, error, message):
    with pytest.raises(error, match=message):
        FactorizedLogJoint(terms)


def test_what_a_term_returns_is_checked():
    with pytest.raises(ShapeError, match=r"z: expected \(\.\.\., 3\), as many as the terms touch, got \(8, 2\)"):
        chain(3)(torch.zeros(8, 2))
    with pytest.raises(NonScalarLogJoint, match=r"expected log densities \(8,\), got \(8, 1\)"):
        FactorizedLogJoint([(lambda z: z, [0])])(torch.zeros(8, 1))
    with pytest.raises(NonFiniteLogJoint, match=r"log_joint: returned -inf at z = \[1.0, 0.0\]"):
        FactorizedLogJoint([(unit, [0]), (lambda z: z[..., 0].log(), [1])])(tensor(1.0, 0.0))


# ---- the estimator, draw by draw ------------------------------------------------------------------------------------


@every_family
@every_batch
def test_the_gradient_is_the_mean_of_each_coordinates_own_f_times_its_score(make, batch):
    q, joint = make(*batch, dim=3), chain(3)
    z = q.sample(noise_for(q))
    values, log_q = joint.values(z), q.log_factors(z)
    touching = {0: [0, 1, 3], 1: [1, 2, 4], 2: [2, 5]}                 # terms: prior, step 01, step 12, seen 0, 1, 2
    f = torch.stack([values[..., touching[d]].sum(-1) - log_q[..., d] for d in range(3)], -1)         # (S, *R, 3)
    of_coordinate = torch.tensor([int(name[name.index("[") + 1]) for name in q.parameter_names()])
    value, gradient = by_autograd(rao_blackwell, joint, q, noise_for(q))
    close(value, (joint(z) - q.log_prob(z)).mean(0))
    close(gradient, (f[..., of_coordinate] * q.score(z)).mean(0))
    _, gradient = by_autograd(rao_blackwell_leave_one_out, joint, q, noise_for(q))
    others = (f.sum(0) - f) / 7
    close(gradient, ((f - others)[..., of_coordinate] * q.score(z)).mean(0))


@every_family
@pytest.mark.parametrize("joint", [FactorizedLogJoint([(lambda z: z[..., 0].sin(), [0])]), lambda z: z[..., 0].sin()],
                         ids=["one term", "a plain function"])
def test_with_one_term_and_one_coordinate_it_is_the_plain_estimator_draw_by_draw(make, joint):
    q = make(3, dim=1)
    for num_samples in (2, 5):
        for local, plain in [(rao_blackwell, score_function), (rao_blackwell_leave_one_out, leave_one_out)]:
            eps = noise_for(q, num_samples)
            for a, b in zip(by_autograd(local, joint, q, eps), by_autograd(plain, joint, q, eps)):
                close(a, b, rtol=1e-12, atol=1e-12)


@every_family
def test_a_log_joint_without_terms_is_one_that_touches_everything(make):
    q, joint = make(), readers_model()
    one = FactorizedLogJoint([(joint, [0, 1])])
    for found, same in zip(by_autograd(rao_blackwell, joint, q, noise_for(q)), by_autograd(rao_blackwell, one, q, noise_for(q))):
        close(found, same)


def test_a_coordinate_does_not_hear_what_does_not_touch_it():
    """A thousandfold louder term elsewhere leaves its gradient as it was, to the last bit; the plain one it drowns."""
    q = mean_field(dim=3)
    loud = lambda scale: FactorizedLogJoint([(unit, [0]), (unit, [1]), (lambda z: scale * unit(z), [1, 2])])  # noqa: E731
    first = [0, 3]                                                               # mu[0] and omega[0]
    for estimator, hears in [(rao_blackwell, False), (score_function, True)]:
        quiet, drowned = (by_autograd(estimator, loud(scale), q, noise_for(q))[1][first] for scale in (1.0, 1000.0))
        assert torch.equal(quiet, drowned) != hears


def test_whole_and_local_cost():
    q, z = mean_field(3), mean_field(3).sample(noise_for(mean_field(3)))
    f, local = local_cost(independent(0.2, 2), q, z)
    close(f, independent(0.2, 2)(z) - q.log_prob(z))
    close(local.sum(-1), f)
    assert not f.requires_grad and local.shape == (8, 3, 2)


@pytest.mark.parametrize("estimator", [rao_blackwell, rao_blackwell_leave_one_out], ids=lambda e: e.__name__)
def test_a_q_whose_coordinates_depend_on_each_other_is_refused(estimator):
    with pytest.raises(NotFactorized, match="q: the coordinates of FullRankGaussian are not independent.*Use MeanFieldGaussian"):
        estimator(chain(2), full_rank(), noise_for(full_rank()))


def test_one_draw_has_no_others():
    with pytest.raises(ShapeError, match="num_samples: a leave-one-out baseline needs at least 2 draws, got 1"):
        rao_blackwell_leave_one_out(chain(2), mean_field(), noise_for(mean_field(), 1))


# ---- exactly, over every set of draws -------------------------------------------------------------------------------


DISCRETE = {"Bernoulli": bernoulli(dim=3), "categorical": categorical(dim=2)}
every_discrete = pytest.mark.parametrize("q", DISCRETE.values(), ids=DISCRETE)


def assert_exactly_right(estimator, joint, q, num_samples):
    value, gradient, _ = enumerated(estimator, joint, q, num_samples)
    close(value, exact_elbo(joint, q))
    close(gradient, exact_gradient(joint, q, elbo=True), rtol=1e-10, atol=1e-10)


@every_discrete
@pytest.mark.parametrize("estimator, num_samples", [(rao_blackwell, 1), (rao_blackwell, 2), (rao_blackwell_leave_one_out, 2)])
def test_its_mean_is_the_gradient(estimator, num_samples, q):
    assert_exactly_right(estimator, chain(q.dim), q, num_samples)


def deaf_to_a_neighbour(joint, q, eps):
    """Counts each pair for its first coordinate alone: less than the Markov blanket."""
    z = q.sample(eps)
    values, log_q = joint.values(z), q.log_factors(z)
    f = torch.stack([sum(values[..., t] for t, (_, c) in enumerate(joint.terms) if c[0] == d) for d in range(q.dim)], -1)
    return value_of((joint(z) - log_q.sum(-1)).mean(0), gradient_of=((f - log_q).detach() * log_q).sum(-1).mean(0))


def with_its_own_sample(joint, q, eps):
    z = q.sample(eps)
    f, local = local_cost(joint, q, z)
    return value_of(f.mean(0), gradient_of=((local - local.mean(0)) * q.log_factors(z)).sum(-1).mean(0))


@every_discrete
@pytest.mark.parametrize("mutant", [deaf_to_a_neighbour, with_its_own_sample], ids=lambda m: m.__name__)
def test_a_mutant_fails(mutant, q):
    with pytest.raises(AssertionError):
        assert_exactly_right(mutant, chain(q.dim), q, 2)


def of_rest(joint, q):
    """For each coordinate of λ, under one draw: E[f_d s²], E[s²], and mean and variance of the rest, by enumeration."""
    z, weights = q.states(), q.log_prob(q.states()).exp().unsqueeze(-1)
    average = lambda x: (weights * x).sum(0)  # noqa: E731
    f, local = local_cost(joint, q, z)
    per = q.num_parameters // q.dim
    local = local.repeat_interleave(per, -1)
    rest = f.unsqueeze(-1) - local
    mean = average(rest)
    return average(local * q.score(z) ** 2), q.score_variance(), mean, average((rest - mean) ** 2)


@every_discrete
@pytest.mark.parametrize("offset", [-2.0, -0.3, 0.0, 0.4, 2.0])
def test_with_independent_terms_the_gain_is_what_theory_says(offset, q):
    """Var plain − Var local = E[s²] (Var R + (E R)²) + 2 E[f_d s²] E R, R the rest; of either sign."""
    joint = independent(offset, q.dim)
    fs2, s2, rest_mean, rest_variance = of_rest(joint, q)
    plain, local = (enumerated(estimator, joint, q)[2] for estimator in (score_function, rao_blackwell))
    close(plain - local, s2 * (rest_variance + rest_mean**2) + 2 * fs2 * rest_mean)
    provable = fs2 * rest_mean >= 0
    assert (local[provable] <= plain[provable]).all()


def test_an_accidental_baseline_can_make_the_plain_one_quieter():
    """So no ordering is claimed without a condition: here f_d is near 5 and the rest near −5, and dropping it costs."""
    q = bernoulli(dim=2)
    joint = FactorizedLogJoint([(lambda z: 5 + 0.1 * z[..., 0], [0]), (lambda z: -5 + 0.1 * z[..., 0], [1])])
    plain, local = (enumerated(estimator, joint, q)[2] for estimator in (score_function, rao_blackwell))
    assert (local > 5 * plain).all()


@every_discrete
@pytest.mark.parametrize("offset", [-2.0, 0.0, 2.0])
def test_with_independent_terms_and_learnt_baselines_the_local_one_is_never_noisier(offset, q):
    for num_samples in (2, 3):
        if prod([q.num_classes**q.dim] * num_samples) > 1000:
            continue
        joint = independent(offset, q.dim)
        plain, local = (enumerated(e, joint, q, num_samples)[2] for e in (leave_one_out, rao_blackwell_leave_one_out))
        assert (local < plain).all()


def test_a_gaussian_with_independent_terms_in_many_dimensions():
    """f = Σ z_d², ∂μ₁ at N(0, I): plain (D + 2)(D + 4) for the cost alone; local as if D were one.  Here with log q: by replicates."""
    q = gaussian(dim=20).expand(4000)
    joint = FactorizedLogJoint([(lambda z: z.square().sum(-1), [d]) for d in range(20)])
    eps = normal(1, (4000,), 20, generator=seeded(), dtype=torch.float64)
    plain, local = (by_autograd(e, joint, q, eps)[1][:, 0].var() for e in (score_function, rao_blackwell))
    one = by_autograd(score_function, joint.terms[0][0], gaussian().expand(4000), eps[..., :1])[1][:, 0].var()
    close(local, one)
    assert plain > 20 * local
