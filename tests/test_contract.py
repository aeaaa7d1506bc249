"""The contract of every estimator, with every family, batch and dtype, on a model that a reader wrote.

What is public is found by its signature (helpers.ESTIMATORS), so that a new estimator is tested the day it is added.
"""

from itertools import product

import pytest
import torch
from helpers import DEVICES, DISCRETE, ESTIMATORS, EVERY_FAMILY, FAMILIES, by_autograd, readers_model, refusal, seeded

import vilib
from vilib import (
    Model, adam, antithetic, best_gaussian, check_unbiased, correlated_gaussian, exact_elbo, fit, gradient_replicates, kidiq,
    leave_one_out, logistic_one_coefficient, moments, nested_study, normal, pathwise, quadratic_cost, sobol,
)

close = torch.testing.assert_close
MODEL = readers_model()
#: Of two hundred discrete draws each class of each coordinate comes up, on every machine: one that does not has a gradient of exactly zero.
NUM_SAMPLES = {family: 200 if family in DISCRETE else 6 for family in EVERY_FAMILY}


@pytest.fixture(scope="module", autouse=True)
def nothing_global_changes():
    """This module calls all of vilib: global random states, default dtype, threads and grad mode are as they were."""
    def state():
        return (torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads())

    before = state()
    yield
    assert state() == before


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("family", EVERY_FAMILY)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_keeps_its_contract(name, family, batch, dtype, device):
    estimator, q = ESTIMATORS[name], EVERY_FAMILY[family](*batch, dtype=dtype)
    q = q.with_vector(q.vector().to(device))
    eps = normal(NUM_SAMPLES[family], batch, 2, generator=torch.Generator(device).manual_seed(0), dtype=dtype)
    if refusal(name, family):
        with pytest.raises(refusal(name, family), match=rf"q: .*{type(q).__name__}.*Use .*score_function, leave_one_out"):
            estimator(MODEL, q, eps)
        return
    value, gradient = by_autograd(estimator, MODEL, q, eps)

    assert value.shape == batch and gradient.shape == (*batch, q.num_parameters)
    assert value.dtype == gradient.dtype == dtype and value.device.type == gradient.device.type == device
    assert value.isfinite().all() and gradient.isfinite().all() and (gradient != 0).all()
    for again, first in zip(by_autograd(estimator, MODEL, q, eps), (value, gradient)):
        assert torch.equal(again, first)                                         # a pure function: nothing is drawn inside

    tolerance = dict(rtol=1e-10, atol=1e-10) if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-4)
    for at in product(*map(range, batch)):
        alone = by_autograd(estimator, MODEL, q.with_vector(q.vector()[at]), eps[(slice(None), *at)])
        close(value[at], alone[0], **tolerance)
        close(gradient[at], alone[1], **tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("noise", [normal, antithetic, sobol], ids=lambda n: n.__name__)
@pytest.mark.parametrize("family", ["mean-field", *DISCRETE])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_replicates_and_fits_under_every_noise_it_allows(name, family, noise, device):
    estimator, q = ESTIMATORS[name], EVERY_FAMILY[family](3)
    q = q.with_vector(q.vector().to(device))
    options = dict(num_samples=4, noise=noise, generator=torch.Generator(device).manual_seed(0))
    if refusal(name, family):
        pytest.raises(refusal(name, family), gradient_replicates, estimator, MODEL, q, num_replicates=2, **options)
        pytest.raises(refusal(name, family), fit, estimator, MODEL, q, num_steps=3, optimizer=adam(0.01), **options)
        return
    if getattr(estimator, "needs_independent_draws", False) and not noise.independent_draws:
        pytest.raises(vilib.DependentDraws, gradient_replicates, estimator, MODEL, q, num_replicates=2, **options)
        return
    assert gradient_replicates(estimator, MODEL, q, num_replicates=2, **options).shape == (2, *q.vector().shape)
    done = fit(estimator, MODEL, q, num_steps=3, optimizer=adam(0.01), **options)
    assert done.path.shape == (4, *q.vector().shape) and done.path.isfinite().all() and done.path.device.type == device


def test_nothing_else_of_vilib_touches_what_is_global():
    """What the tests above do not call; the fixture holds the state before against the state after."""
    state = torch.get_rng_state()
    q = FAMILIES["mean-field"](dim=1)
    check_unbiased(leave_one_out, num_replicates=50)
    best_gaussian(logistic_one_coefficient(), q)
    moments(quadratic_cost(), q), exact_elbo(logistic_one_coefficient(), q), kidiq()
    nested_study(quadratic_cost(), q, normal(8, (4,), 1, generator=seeded(), dtype=torch.float64))
    fit(pathwise, correlated_gaussian(), FAMILIES["full-rank"](2), num_samples=2, num_steps=2,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.1), generator=seeded())
    assert torch.equal(torch.get_rng_state(), state) and torch.get_default_dtype() == torch.float32


def test_the_readers_model_is_not_special():
    """It is a Model of one draw at a time, with a positive parameter: no example of the book, no hand-written slope."""
    assert isinstance(MODEL, Model) and not MODEL.batched and not hasattr(MODEL, "slope") and MODEL.dim == 2


@pytest.mark.skipif("cuda" not in DEVICES, reason="no CUDA device here: the contract was tested on the CPU alone")
def test_the_contract_was_tested_on_cuda_too():
    assert torch.cuda.is_available()
