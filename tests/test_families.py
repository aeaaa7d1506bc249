"""The families against torch.distributions, autograd and quadrature."""

import pytest
import torch
from helpers import every_batch, every_family, full_rank, gaussian, mean_field, noise_for, seeded
from torch.distributions import MultivariateNormal

from vilib import FullRankGaussian, MeanFieldGaussian, ShapeError, expectation

close = torch.testing.assert_close


def per_draw_gradient(function, q, num_draws):
    """∇_λ of each draw's own number: function(q) (S, *R) -> (S, *R, P)."""
    rows = []
    for s in range(num_draws):
        vector = q.vector().requires_grad_()
        rows.append(torch.autograd.grad(function(q.with_vector(vector))[s].sum(), vector)[0])
    return torch.stack(rows)


@every_family
@every_batch
def test_log_prob_entropy_and_moments_are_those_of_torch(make, batch):
    q = make(*batch)
    z = q.transform(noise_for(q))
    same = MultivariateNormal(q.mean, scale_tril=q.scale_tril)
    close(q.log_prob(z), same.log_prob(z))
    close(q.entropy(), same.entropy())
    close(q.covariance, same.covariance_matrix)
    close(q.stddev, same.stddev)


def test_mean_field_is_a_product_of_normals():
    q = mean_field(3)
    z = q.transform(noise_for(q))
    close(q.log_factors(z), torch.distributions.Normal(q.mu, q.omega.exp()).log_prob(z))
    close(q.log_prob(z), torch.distributions.Normal(q.mu, q.omega.exp()).log_prob(z).sum(-1))


@every_family
@every_batch
def test_what_is_said_at_eps_is_what_is_said_at_z(make, batch):
    q = make(*batch)
    eps = noise_for(q)
    z = q.transform(eps)
    close(q.noise_of(z), eps)
    close(q.log_prob_at(eps), q.log_prob(z))
    close(q.score_at(eps), q.score(z))
    close(q.grad_log_prob_at(eps), q.grad_log_prob(z))


@every_family
@every_batch
def test_the_score_is_the_gradient_of_log_q_with_the_draws_held_still(make, batch):
    q = make(*batch)
    z = q.sample(noise_for(q))
    close(q.score(z), per_draw_gradient(lambda q: q.log_prob(z), q, len(z)))


@every_family
@every_batch
def test_the_pullback_is_the_gradient_along_the_path(make, batch):
    q = make(*batch)
    eps = noise_for(q)
    grad_z = torch.randn(eps.shape, generator=seeded(3), dtype=eps.dtype)
    close(q.pullback(eps, grad_z), per_draw_gradient(lambda q: (q.transform(eps) * grad_z).sum(-1), q, len(eps)))


@every_family
@every_batch
def test_the_slope_of_log_q_and_of_the_entropy_are_autograds(make, batch):
    q = make(*batch)
    z = q.sample(noise_for(q)).requires_grad_()
    close(q.grad_log_prob(z), torch.autograd.grad(q.log_prob(z).sum(), z)[0])
    vector = q.vector().requires_grad_()
    entropy = q.with_vector(vector).entropy()
    close(q.entropy_gradient(), torch.autograd.grad(entropy.sum(), vector)[0])


@pytest.mark.parametrize(
    "q", [gaussian(0.3, -0.4), mean_field(), full_rank(), full_rank(dim=1)], ids=lambda q: f"{type(q).__name__}-{q.dim}")
def test_the_score_has_mean_zero_and_the_variance_it_says(q):
    for p in range(q.num_parameters):
        assert expectation(lambda z: q.score(z)[..., p], q).item() == pytest.approx(0, abs=1e-10)
        assert expectation(lambda z: q.score(z)[..., p] ** 2, q).item() == pytest.approx(q.score_variance()[p].item(), rel=1e-9)


@every_family
def test_asking_for_some_coordinates_gives_those_of_all(make):
    q = make(3)
    eps, wanted = noise_for(q), (3, 0)
    grad_z = torch.randn_like(eps)
    close(q.score_at(eps, wanted), q.score_at(eps)[..., list(wanted)])
    close(q.pullback(eps, grad_z, wanted), q.pullback(eps, grad_z)[..., list(wanted)])
    close(q.score_variance(wanted), q.score_variance()[..., list(wanted)])


@every_family
@every_batch
def test_the_vector_holds_all_of_q(make, batch):
    q = make(*batch)
    assert q.vector().shape == (*batch, q.num_parameters) and len(set(q.parameter_names())) == q.num_parameters
    again = q.with_vector(q.vector())
    close(again.mean, q.mean)
    close(again.scale_tril, q.scale_tril)


@every_family
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_parameters_are_counted_as_they_are_named(make, dim):
    q = make(3, dim=dim)
    assert q.num_parameters == len(q.parameter_names()) == q.vector().shape[-1]


def test_names_say_where_each_parameter_stands():
    assert mean_field().parameter_names() == ("mu[0]", "mu[1]", "omega[0]", "omega[1]")
    assert full_rank().parameter_names() == ("mu[0]", "mu[1]", "raw_tril[0,0]", "raw_tril[1,0]", "raw_tril[1,1]")
    q = FullRankGaussian(torch.zeros(2), torch.tensor([[1.0, 9.0], [2.0, 3.0]]))
    assert q.vector().tolist() == [0, 0, 1, 2, 3] and q.scale_tril[0, 1] == 0


@every_family
def test_a_member_of_the_batch_is_the_same_density_alone(make):
    q = make(2, 3)
    eps = noise_for(q)
    alone = q.with_vector(q.vector()[1, 2])
    close(q.transform(eps)[:, 1, 2], alone.transform(eps[:, 1, 2]))
    close(q.score_at(eps)[:, 1, 2], alone.score_at(eps[:, 1, 2]))


@every_family
def test_expand_puts_new_axes_first_and_detach_holds_still(make):
    q = make(3)
    assert q.expand(4).batch_shape == (4, 3) and q.expand(4, 5).mean.shape == (4, 5, 3, 2)
    moving = q.with_vector(q.vector().requires_grad_())
    eps = noise_for(q)
    assert moving.transform(eps).requires_grad and moving.log_prob(torch.zeros(3, 2, dtype=torch.float64)).requires_grad
    assert not moving.detach().vector().requires_grad and not moving.sample(eps).requires_grad
    close(moving.sample(eps), q.transform(eps))


@pytest.mark.parametrize("build, message", [
    (lambda: MeanFieldGaussian(torch.zeros(2), torch.zeros(3)), r"mu and omega: both of shape \(\*R, D\), got \(2,\) and \(3,\)"),
    (lambda: MeanFieldGaussian(torch.tensor(0.0), torch.tensor(0.0)), r"pass torch.tensor\(\[m\]\)"),
    (lambda: FullRankGaussian(torch.zeros(2), torch.zeros(2)), r"mu and raw_tril: shapes .* got \(2,\) and \(2,\)"),
    (lambda: mean_field().with_vector(torch.zeros(3)), r"vector: expected \(\*R, 4\), got \(3,\)"),
    (lambda: full_rank().with_vector(torch.tensor(0.0)), r"vector: expected \(\*R, 5\), got \(\)"),
    (lambda: mean_field(3).transform(torch.zeros(4, 2)),
     r"eps: expected \(S, \*R, D\) = \(S, 3, 2\) for this q, got \(4, 2\).*q.batch_shape"),
    (lambda: full_rank().sample(torch.zeros(4, 3)), r"eps: expected .*\(S, 2\) for this q, got \(4, 3\)"),
])
def test_shapes_that_do_not_fit_are_named(build, message):
    with pytest.raises(ShapeError, match=message):
        build()
