"""A reader's own model: any form in which it comes, exact up to two unknowns, and honest beyond."""

import math
import re

import pytest
import torch
from helpers import seeded, tensor
from torch.distributions import Beta, Normal, constraints

from vilib import (
    FullRankGaussian,
    MeanFieldGaussian,
    Model,
    NonFiniteLogJoint,
    NonScalarLogJoint,
    ShapeError,
    UnsupportedSupport,
    VilibError,
    advi,
    coin_toss,
    correlated_gaussian,
    eight_schools,
    fit,
    kidiq,
    logistic_one_coefficient,
    ordered,
    score_function,
    sgd,
)
from vilib.own_model import own_model
from vilib.own_noise import own_noise, variance_range
from vilib.own_race import OwnStart, beside_own, measured_along, own_field, where_defined

close = torch.testing.assert_close
DATA = tensor(1.2, 0.4, 2.1, 0.9, -0.3)
SUPPORTS = {"mu": constraints.real, "sigma": constraints.positive}


def height(theta):
    return Normal(theta["mu"], theta["sigma"]).log_prob(DATA).sum() - theta["mu"] ** 2 / 50 - theta["sigma"]


def line(z):
    """N(3, 2²) in every coordinate, normalised, of many draws."""
    return Normal(3.0, 2.0).log_prob(z).sum(-1)


# ---- the forms ------------------------------------------------------------------------------------------------------


def test_every_form_is_the_same_model():
    by_model = own_model(Model(height, SUPPORTS))
    by_function = own_model(height, supports=SUPPORTS)
    z = torch.randn(7, 3, 2, generator=seeded(), dtype=torch.float64)
    assert by_model.dim == by_function.dim == 2 and by_model.name == by_function.name == "height"
    close(by_model(z), by_function(z))
    assert by_model(z).shape == (7, 3)
    close(own_model(line, dim=3)(z[:, :, :1].expand(7, 3, 3)), line(z[:, :, :1].expand(7, 3, 3)))
    close(own_model(correlated_gaussian())(z), correlated_gaussian()(z))
    close(own_model(coin_toss(6, 4))(z[..., :1]), coin_toss(6, 4)(z[..., :1]))


def test_data_in_single_precision_are_met_in_single_precision():
    x = torch.randn(5, 2, generator=seeded())
    own = own_model(
        lambda theta: -(x @ theta["b"] - 1).square().sum(), supports={"b": constraints.real_vector}, shapes={"b": (2,)}
    )
    assert own.dtype == torch.float32 and own(torch.zeros(3, 2).double()).dtype == torch.float64
    exact = torch.linalg.lstsq(x, torch.ones(5, 1)).solution[:, 0]
    close(own.best().q.mean, exact.double(), rtol=1e-3, atol=1e-3)


def test_coordinates_say_what_they_are():
    supports = {
        "a": constraints.real,
        "b": constraints.positive,
        "c": constraints.unit_interval,
        "d": constraints.interval(2.0, 5.0),
        "e": constraints.less_than(1.0),
        "f": ordered,
        "g": constraints.simplex,
        "h": constraints.greater_than(1.0),
    }
    own = own_model(lambda theta: theta["a"], supports=supports, shapes={"f": (2,), "g": (3,)}, coordinates=(1, 4))
    assert own.labels == (
        "a",
        "log b",
        "logit c",
        "logit of d between its bounds",
        "log of e below its bound",
        "f[0]",
        "log step to f[1]",
        "logit of g[0] in what is left",
        "logit of g[1] in what is left",
        "log of h above its bound",
    )
    assert own.coordinates == (1, 4)
    z = torch.randn(4, own.dim, generator=seeded(), dtype=torch.float64)
    values, theta = own.parameter_values(z), own.constrain(z)
    close(values[:, 1], theta["b"])
    close(values[:, 5:7], theta["f"])
    close(values[:, 7:9], theta["g"][:, :2])


@pytest.mark.parametrize(
    ("given", "options", "kind", "message"),
    [
        (3, {}, VilibError, "model: expected a vilib.Model or a function, got 3. Pass Model(log_joint"),
        (Model, {}, VilibError, "model: expected a vilib.Model or a function, got <class"),
        (
            height,
            {},
            VilibError,
            "supports, dim: height is a plain function, of which one of the two must be said, got neither. Pass supports=",
        ),
        (height, {"supports": SUPPORTS, "dim": 2}, VilibError, "one of the two must be said, got both"),
        (
            height,
            {"supports": "positive"},
            VilibError,
            "supports: expected a dict such as {'sigma': constraints.positive}, got 'positive'",
        ),
        (height, {"supports": {"mu": "real"}}, UnsupportedSupport, "Did you mean constraints.real?"),
        (line, {"dim": 0}, ShapeError, "dim: expected the number of unknowns, a whole number from 1, got 0"),
        (line, {"dim": 2.0}, ShapeError, "got 2.0"),
        (
            line,
            {"dim": 3, "coordinates": (0, 3)},
            ShapeError,
            "coordinates: expected 2 different whole numbers from 0 to 2, places in z, got (0, 3)",
        ),
        (line, {"dim": 3, "coordinates": (1, 1)}, ShapeError, "expected 2 different whole numbers"),
        (
            line,
            {"dim": 1, "coordinates": (0, 1)},
            ShapeError,
            "coordinates: expected 1 different whole number from 0 to 0",
        ),
        (
            Model(height, SUPPORTS),
            {"dim": 2},
            VilibError,
            "dim: height is a vilib.Model, which knows its own; leave dim out",
        ),
    ],
)
def test_what_cannot_be_one_is_refused_in_words(given, options, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        own_model(given, **options)


@pytest.mark.parametrize(
    ("function", "options", "kind", "message"),
    [
        (
            lambda theta: theta["mu"] + DATA,
            {"supports": {"mu": constraints.real}},
            NonScalarLogJoint,
            "Sum the log densities of the data",
        ),
        (lambda z: -z.square().sum(), {"dim": 2}, NonScalarLogJoint, "expected one number a draw"),
        (lambda z: -z.square(), {"dim": 2}, NonScalarLogJoint, "expected one number a draw"),
        (
            lambda theta: (theta["mu"] - 5).log(),
            {"supports": {"mu": constraints.real}},
            NonFiniteLogJoint,
            "returned nan at theta = {'mu'",
        ),
        (lambda theta: theta["nu"], {"supports": {"mu": constraints.real}}, KeyError, "nu"),
    ],
)
def test_what_does_not_run_says_why(function, options, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        own_model(function, **options).best()


def test_each_evaluation_is_announced_and_may_be_ended():
    calls = []
    own = own_model(height, supports=SUPPORTS, on_call=lambda: calls.append(1))
    assert own.dtype == torch.float64 and calls  # which took a look of its own
    calls.clear()
    own(torch.zeros(5, 2))
    assert len(calls) == 1

    class Enough(BaseException):
        pass

    def enough():
        raise Enough

    with pytest.raises(Enough):
        own_model(height, supports=SUPPORTS, on_call=enough).best()


# ---- exact up to two unknowns ---------------------------------------------------------------------------------------


def test_one_unknown_against_the_coin():
    own, exact = own_model(coin_toss(6, 4)), coin_toss(6, 4)
    q, elbo = exact.best
    assert own.best().exact and own.best().error == 0
    close(own.best().q.vector(), q.vector(), rtol=1e-5, atol=1e-6)
    assert own.best().elbo == pytest.approx(elbo, abs=1e-9)
    assert own.grid.log_evidence == pytest.approx(exact.log_evidence, abs=1e-9)
    mean, sd = own.reference
    assert (mean.item(), sd.item()) == pytest.approx((16 / 30, Beta(16.0, 14.0).stddev.item()), abs=1e-6)
    z = torch.linspace(-3, 3, 1001).double()
    assert torch.trapezoid(own.density(z), z).item() == pytest.approx(1, abs=1e-9)
    low, high = own.span(0)
    assert torch.trapezoid(
        own.density(torch.linspace(low, high, 4001).double()), torch.linspace(low, high, 4001).double()
    ).item() == pytest.approx(0.999, abs=1e-3)


def test_two_unknowns_against_the_correlated_gaussian():
    own, exact = own_model(correlated_gaussian(0.9, (1.0, 10.0))), correlated_gaussian(0.9, (1.0, 10.0))
    assert own.best().elbo == pytest.approx(exact.best[1], abs=1e-9)
    close(own.best().q.stddev, exact.best[0].stddev, rtol=1e-6, atol=0)
    assert own.best(FullRankGaussian).elbo == pytest.approx(0, abs=1e-9)
    assert own.grid.log_evidence == pytest.approx(0, abs=1e-8)
    mean, sd = own.reference
    close(mean, tensor(0, 0), atol=1e-6, rtol=0)
    close(sd, tensor(1, 10), rtol=1e-6, atol=0)
    assert own.windows(5.0)[1][0] < -30


def test_the_grid_follows_a_tail_and_gives_up_where_there_is_no_value():
    tails = own_model(lambda z: torch.distributions.StudentT(3.0).log_prob(z).sum(-1), dim=1)
    assert tails.grid.log_evidence == pytest.approx(0, abs=1e-3) and tails.grid.z.max() > 50
    walled = own_model(
        lambda z: Normal(0.0, 1.0).log_prob(z).sum(-1) + torch.where(z.abs() < 12, 0.0, math.nan).sum(-1), dim=1
    )
    assert walled.best().exact and walled.grid is not None
    near = own_model(
        lambda z: Normal(0.0, 1.0).log_prob(z).sum(-1) + torch.where(z.abs() < 6, 0.0, math.nan).sum(-1), dim=1
    )
    assert near.grid is None and not near.best().exact or near.best().q.stddev.item() == pytest.approx(1, abs=0.05)


# ---- beyond two, by long fits ----------------------------------------------------------------------------------------


def test_many_unknowns_are_known_by_a_long_fit():
    own = own_model(eight_schools())
    best = own.best()
    assert not best.exact and best.converged and 0 < best.error < 0.1 and own.grid is None
    assert best.elbo == pytest.approx(-31.62, abs=0.03 + 4 * best.error)
    mean, sd = own.reference
    known = eight_schools().reference
    assert mean[0].item() == pytest.approx(known["mu"]["mean"], abs=0.5) and sd[0].item() == pytest.approx(
        known["mu"]["sd"], rel=0.15
    )
    assert advi(eight_schools(), generator=seeded(0), progress=False).elbo.item() == pytest.approx(best.elbo, abs=0.1)


def test_units_are_those_of_the_best_q():
    for own in (own_model(height, supports=SUPPORTS), own_model(kidiq())):
        example, q = own.in_units, own.best().q
        u = torch.randn(50, 4, own.dim, generator=seeded(), dtype=torch.float64)
        close(example(u), own(q.mu + q.stddev * u) + q.omega.sum())
        assert example.kl_to_best(MeanFieldGaussian(0 * q.mu, 0 * q.omega)).item() == pytest.approx(0, abs=1e-12)


# ---- the noise of its gradients -------------------------------------------------------------------------------------

NAMES = ["score_function", "leave_one_out", "pathwise", "sticking_the_landing"]
OPTIONS = {"num_replicates": 100, "max_samples": 64, "num_measured": 20_000, "num_shown": 8, "seed": 0}


def test_the_gradient_of_a_gaussian_in_nats_per_sd():
    found = own_noise(own_model(line, dim=1), 1.0, 0.0, NAMES, **OPTIONS)
    assert found.noise["pathwise"].exact == pytest.approx(-1, abs=1e-6) and found.error == 0 and found.signal
    close(found.noise["pathwise"].variance, 1 / torch.tensor([1.0, 2, 4, 8, 16, 32, 64]).double(), rtol=1e-5, atol=0)
    close(found.q.mean, tensor(5.0), rtol=1e-6, atol=0)
    assert not own_noise(own_model(line, dim=1), 0.0, 0.0, NAMES, **OPTIONS).signal


@pytest.mark.parametrize("coordinate", [0, 1])
def test_what_is_measured_of_three_unknowns_is_what_is_exact_of_each(coordinate):
    """Independent coordinates, of different widths: the gradient of one is that of a Gaussian on its own."""
    scales = tensor(1.0, 5.0, 0.1)
    own = own_model(lambda z: Normal(0.0, scales).log_prob(z).sum(-1), dim=3, coordinates=(coordinate, 2))
    found = own_noise(own, -2.0, 0.7, NAMES, **OPTIONS)
    assert found.error > 0 and abs(found.noise["pathwise"].exact - 2) < 5 * found.error + 0.1
    close(found.noise["pathwise"].variance[0], tensor(math.exp(1.4))[0], rtol=0.1, atol=0)  # Var of σ ε
    assert found.z.shape == (8, 3)


def test_the_variances_lie_in_their_range():
    own = own_model(height, supports=SUPPORTS)
    low, high = variance_range(own, (-2.0, 2.0), (-0.7, 0.7), 64)
    for mu in (-2.0, 2.0):
        found = own_noise(own, mu, 0.7, NAMES, **OPTIONS)
        assert found.noise["pathwise"].variance[-1] > low and found.noise["score_function"].variance[0] < 3 * high


# ---- the race, and a bad start --------------------------------------------------------------------------------------


def test_measured_and_exact_agree_along_a_path():
    own = own_model(logistic_one_coefficient())
    path = torch.tensor([[[-2.0, 0.0]], [[0.5, 0.2]]]).double()
    exact = own_field(own, path, [0, 10], "pathwise", 4, nats=0.5, eps=None)
    eps = torch.randn(100_000, 1, generator=seeded(1), dtype=torch.float64)
    measured = where_defined(lambda q: measured_along(own.in_units, q, "pathwise", 4, eps), path)
    assert ((measured.elbo - exact.fits.elbo).abs() < 6 * measured.error).all() and (measured.error > 0).all()
    close(measured.variance, exact.fits.variance, rtol=0.05, atol=0)
    close(measured.kl, exact.fits.kl)
    assert exact.arrived == 10.0


def test_a_q_without_a_value_counts_as_lost():
    """Inside the reader's function a root of what may be negative: nan where q reaches beyond."""
    own = own_model(lambda z: (Normal(0.0, 1.0).log_prob(z) + 0 * (60 - z).sqrt()).sum(-1), dim=3)
    path = torch.zeros(2, 3, 6).double()
    path[1, 1, 0] = 100.0
    field = own_field(
        own,
        path,
        [0, 5],
        "score_function",
        4,
        nats=0.1,
        eps=torch.randn(50, 3, generator=seeded(), dtype=torch.float64),
    )
    assert field.fits.elbo.isnan().tolist() == [[False] * 3, [False, True, False]]


def test_the_bad_start_is_four_sds_off_and_the_best_q_is_at_home():
    own = own_model(height, supports=SUPPORTS)
    start, best = OwnStart(own), own.best()
    for family in (MeanFieldGaussian, FullRankGaussian):
        q0 = start.q0(family)
        assert isinstance(q0, family)
        close((q0.mean - best.q.mean) / best.q.stddev, tensor(-4, 0), atol=1e-9, rtol=0)
        close(q0.covariance.diagonal().sqrt(), 0.5 * best.q.stddev)
    path = best.q.with_vector(torch.stack([start.q0(MeanFieldGaussian).vector(), best.q.vector()]))
    seen = beside_own(start, path, best.elbo, 500, 2000, seeded())
    assert seen.gap == pytest.approx(0, abs=5 * seen.spread / 2000**0.5) and seen.elbo[0] < best.elbo - 3
    assert seen.off[0, 0] < -3 and abs(seen.off[1, 0]) < 0.3
    exact = tensor(*(value.item() for value in own.reference[0]))
    close(seen.mean[1] - seen.off[1] * own.reference[1], exact, rtol=1e-9, atol=1e-9)


def test_a_fit_goes_on_when_some_are_nan_and_others_minus_infinity():
    """vilib.Model names the draws that are nan first; those that are −∞ are met in the second look, and frozen too."""
    model = Model(
        lambda theta: torch.where(
            theta["x"] > 50, math.nan, torch.where(theta["x"] < -50, -math.inf, -(theta["x"] ** 2) / 2)
        ),
        {"x": constraints.real},
    )
    q0 = MeanFieldGaussian(tensor(0.0, 100.0, -100.0).unsqueeze(-1), torch.zeros(3, 1).double())
    done = fit(score_function, model, q0, num_samples=4, num_steps=5, optimizer=sgd(1e-3), generator=seeded())
    assert done.failed_at.tolist() == [-1, 0, 0]
