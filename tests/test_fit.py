"""The climb: its steps, where it ends, and what happens to a fit that falls."""

import math

import pytest
import torch
from helpers import FAMILIES, full_rank, gaussian, mean_field, seeded, tensor

from vilib import (
    AllFitsFailed, DependentDraws, FullRankGaussian, GeneratorDeviceError, MeanFieldGaussian, MissingGenerator, Optimizer,
    ShapeError,
    VilibError, adagrad, adam, correlated_gaussian, exact_elbo, fit, gaussian_target, kidiq, leave_one_out,
    logistic_one_coefficient, normal, pathwise, rmsprop, robbins_monro, score_function, sgd, sobol, sticking_the_landing,
    two_component_mixture, value_and_gradient,
)

close = torch.testing.assert_close

OPTIMIZERS = {
    "sgd": (sgd, torch.optim.SGD, {}), "rmsprop": (rmsprop, torch.optim.RMSprop, {}),
    "rmsprop, decay": (lambda r: rmsprop(r, decay=0.9, eps=1e-3), torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-3}),
    "adagrad": (adagrad, torch.optim.Adagrad, {}), "adam": (adam, torch.optim.Adam, {}),
    "adam, betas": (lambda r: adam(r, betas=(0.5, 0.9), eps=1e-3), torch.optim.Adam, {"betas": (0.5, 0.9), "eps": 1e-3}),
}


def run(estimator=pathwise, target=None, q0=None, **options):
    options = {"num_samples": 4, "num_steps": 30, "optimizer": adam(0.05), "generator": seeded(), **options}
    target, q0 = target or correlated_gaussian(0.5), q0 or mean_field(3)
    return fit(estimator, target, q0, **options)


# ---- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours, theirs, options", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_optimizer_is_torchs(ours, theirs, options, dtype):
    q0 = mean_field(3, dtype=dtype)
    paths = [run(q0=q0, optimizer=optimizer, num_steps=100).path
             for optimizer in (ours(0.03), lambda params: theirs(params, lr=0.03, **options))]
    close(*paths, rtol=1e-6 if dtype == torch.float64 else 1e-4, atol=1e-6 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("optimizer", [sgd, rmsprop, adagrad, adam], ids=lambda o: o.__name__)
def test_a_step_size_for_each_fit_is_each_fit_by_itself(optimizer):
    q0, rates = mean_field().expand(3), tensor(0.1, 0.03, 0.01)
    together = run(q0=q0, optimizer=optimizer(rates))
    for i, rate in enumerate(rates.tolist()):
        close(together.path[:, i], run(q0=q0, optimizer=optimizer(rate)).path[:, i])


@pytest.mark.parametrize("options", [{}, {"schedule": robbins_monro(0.8, 5)}, {"betas": (0.5, 0.9), "eps": 1e-3}], ids=lambda o: "".join(o))
@pytest.mark.parametrize("shape", [(3,), (5, 4), (2, 3, 20)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_adams_step_in_place_is_its_update(dtype, shape, options):
    """The formula as it is written, and torch's own kernel: the same to rounding, over fifty steps."""
    optimizer, random = adam(0.03, **options), seeded()
    start = torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)
    by_update, by_climb, state, owned = start.clone(), start.clone(), optimizer.init(start), optimizer.init(start)
    for step in range(50):
        gradient = torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)
        increment, state = optimizer.update(gradient, state, step)
        by_update = by_update + increment
        owned = optimizer.climb(by_climb, gradient, owned, step)
    close(by_climb, by_update, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)
    for mine, theirs in zip(owned, state):
        close(mine, theirs, rtol=1e-12 if dtype == torch.float64 else 1e-4, atol=1e-6 * (dtype == torch.float32))


def test_a_fit_changes_nothing_of_what_it_records_in_place():
    """Adam may step in place; the path still holds each λ, and q0 is as it was."""
    q0 = mean_field(3)
    before, optimizer = q0.vector().clone(), adam(0.05)
    path = run(q0=q0, optimizer=optimizer).path
    close(q0.vector(), before)
    close(path, run(q0=q0, optimizer=Optimizer(optimizer.init, optimizer.update)).path)
    assert len(path.unique(dim=0)) == 31 and optimizer.climb is not None


def test_a_step_size_for_each_fit_and_a_torch_without_the_kernel_go_by_the_formula(monkeypatch):
    assert adam(tensor(0.1, 0.2)).climb is None
    monkeypatch.delattr(torch, "_fused_adam_")
    plain = adam(0.05)
    assert plain.climb is None
    monkeypatch.undo()
    close(run(optimizer=plain).path, run(optimizer=adam(0.05)).path)


def test_sgd_adds_the_gradient_times_the_scheduled_step():
    q0, schedule = mean_field(3), robbins_monro(0.8, 5)
    done = run(q0=q0, optimizer=sgd(0.1, schedule))
    generator, vector = seeded(), q0.vector()
    for step in range(30):
        eps = normal(4, (3,), 2, generator=generator, dtype=torch.float64)
        value, gradient = value_and_gradient(pathwise, correlated_gaussian(0.5), q0.with_vector(vector), eps)
        close(done.path[step], vector)
        close(done.elbo[step], value)
        vector = vector + 0.1 * schedule(step) * gradient
    close(done.path[-1], vector)


@pytest.mark.parametrize("optimizer", [rmsprop, adagrad, adam], ids=lambda o: o.__name__)
def test_every_optimizer_takes_a_schedule(optimizer):
    gradient, state = tensor(2.0, -3.0), None
    plain, slow = optimizer(0.1), optimizer(0.1, lambda step: 0.5)
    state = plain.init(gradient)
    close(slow.update(gradient, state, 0)[0], 0.5 * plain.update(gradient, state, 0)[0])


@pytest.mark.parametrize("kappa, delay", [(0.51, 1.0), (0.7, 100.0), (1.0, 10.0)])
def test_robbins_monro_steps_are_the_formula(kappa, delay):
    schedule = robbins_monro(kappa, delay)
    assert [schedule(t) for t in (0, 1, 50)] == pytest.approx([1.0, (1 + 1 / delay) ** -kappa, (1 + 50 / delay) ** -kappa])


@pytest.mark.parametrize("kappa", [0.5, 0.0, -1.0, 1.01, math.nan])
def test_robbins_monro_outside_its_conditions_is_refused(kappa):
    with pytest.raises(VilibError, match=rf"kappa: expected ½ < kappa ≤ 1, got {kappa}.*too slowly.*too fast"):
        robbins_monro(kappa)


def test_a_delay_is_positive():
    with pytest.raises(VilibError, match="delay: a positive number of steps, got 0"):
        robbins_monro(0.7, 0)


# ---- the record -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_the_record_keeps_the_shape_law(make, batch):
    q0 = make(*batch)
    done = run(q0=q0, num_steps=5)
    assert done.path.shape == (6, *batch, q0.num_parameters) and done.elbo.shape == (6, *batch)
    assert done.failed_at.shape == batch and (done.failed_at == -1).all() and done.steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert done.q.batch_shape == batch and done.q_at(slice(1, 3)).batch_shape == (2, *batch) and type(done.q) is type(q0)
    close(done.path[0], q0.vector())
    close(done.q.vector(), done.path[-1])
    assert not done.path.requires_grad


@pytest.mark.parametrize("options, steps", [
    ({"record_every": 3}, [0, 3, 6, 9, 10]), ({"record_every": 100}, [0, 10]), ({"record_steps": ()}, [0, 10]),
    ({"record_steps": (7, 2)}, [0, 2, 7, 10]), ({"record_steps": (0, 10)}, [0, 10]),
])
def test_what_is_recorded_does_not_change_the_climb(options, steps):
    every, some = run(num_steps=10), run(num_steps=10, **options)
    assert some.steps.tolist() == steps
    close(some.path, every.path[steps])
    close(some.elbo, every.elbo[steps])


@pytest.mark.parametrize("optimizer", [sgd(0.02), lambda p: torch.optim.SGD(p, lr=0.02)], ids=["ours", "torch's"])
@pytest.mark.parametrize("options", [{}, {"record_every": 2}, {"record_steps": range(3, 250)}], ids=["each", "every other", "some"])
def test_a_long_record_is_what_each_step_gave(optimizer, options):
    """Hundreds of records, one fit falling between two others on the way, against the loop written out."""
    q0 = MeanFieldGaussian(tensor([0.0], [-99.0], [9.0]), tensor([-3.0], [-3.0], [-3.0]))
    uphill = lambda z: torch.where(z[..., 0] > 4.0, math.nan, z[..., 0])                    # its slope is one  # noqa: E731
    done = run(pathwise, uphill, q0, optimizer=optimizer, num_steps=301, num_samples=2, **options)
    generator, vectors, values, fallen = seeded(), [q0.vector()], [], torch.full((3,), -1)
    for step in range(302):
        eps, vector = normal(2, (3,), 1, generator=generator, dtype=torch.float64), vectors[-1]
        z = q0.with_vector(vector).transform(eps)
        bad = (z > 4.0).any(0)[:, 0] & (fallen < 0)
        fallen[bad] = step
        vector = torch.where((fallen == step).unsqueeze(-1), vectors[max(step - 1, 0)], vector)
        vectors[-1] = vector
        values.append(torch.where(fallen >= 0, math.nan, z[..., 0].mean(0) + q0.with_vector(vector).entropy()))
        gradient = torch.cat([torch.ones(3, 1).double(), vector[:, 1:].exp() * eps.mean(0) + 1], -1)
        vectors.append(torch.where((fallen >= 0).unsqueeze(-1), vector, vector + 0.02 * gradient))
    at = done.steps
    assert fallen[2] == 0 and 100 < fallen[0] < 250 and torch.equal(done.failed_at, fallen) and len(at) > 100
    close(done.path, torch.stack(vectors)[at])
    close(done.elbo, torch.stack(values)[at], equal_nan=True)


def test_the_record_keeps_the_precision_of_q0():
    q0 = mean_field(3, dtype=torch.float32)
    done = run(target=lambda z: correlated_gaussian(0.5)(z.double()), q0=q0, num_steps=150)
    assert done.path.dtype == done.elbo.dtype == torch.float32


def test_no_steps_at_all_is_the_start():
    assert run(num_steps=0).path.shape == (1, 3, 4)


@pytest.mark.parametrize("options, message", [
    ({"record_steps": (31,)}, r"record_steps: all between 0 and num_steps = 30, got \[31\]"),
    ({"record_every": 0}, "record_every at least 1"), ({"num_steps": -1}, "num_steps at least 0"),
])
def test_records_that_cannot_be_are_refused(options, message):
    with pytest.raises(VilibError, match=message):
        run(**options)


def test_every_estimator_climbs_on_the_same_noise():
    """Common random numbers: what a step draws depends on the generator and the shapes alone."""
    def drawn(estimator):
        seen = []
        def keep(*args, **options):
            seen.append(normal(*args, **options))
            return seen[-1]
        run(estimator, noise=keep, num_steps=5)
        return torch.stack(seen)

    assert torch.equal(drawn(pathwise), drawn(score_function))


def test_a_start_with_a_gradient_is_taken_as_a_number():
    q0 = mean_field(3)
    moving = q0.with_vector(q0.vector().requires_grad_())
    close(run(q0=moving).path, run(q0=q0).path)


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_fit_refuses_what_it_cannot_use():
    with pytest.raises(MissingGenerator, match="generator: expected a torch.Generator, got None"):
        run(generator=None)
    with pytest.raises(GeneratorDeviceError, match="generator: it lives on 'cpu', the parameters on 'meta'"):
        run(q0=MeanFieldGaussian(torch.zeros(2, device="meta"), torch.zeros(2, device="meta")))
    with pytest.raises(DependentDraws, match="noise: leave_one_out learns its baseline.*sobol draws are not. Use noise=normal"):
        run(leave_one_out, noise=sobol)
    with pytest.raises(ShapeError, match="num_samples: leave_one_out needs at least 2 draws, got 1"):
        run(leave_one_out, num_samples=1)


# ---- fits that fall -------------------------------------------------------------------------------------------------


def cliff(edge: float, value: float):
    """A hill at 0 and another at 49, and ``value`` beyond ``edge``."""
    def log_joint(z):
        z = z[..., 0]
        return torch.where(z > edge, value, -0.5 * torch.where(z > 20, z - 49, z).square())

    return log_joint


@pytest.mark.parametrize("estimator", [pathwise, score_function, leave_one_out], ids=lambda e: e.__name__)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "optimizer", [sgd(0.02), adam(0.05), lambda p: torch.optim.Adam(p, lr=0.05)], ids=["sgd", "adam", "torch"])
def test_one_fit_that_falls_is_frozen_and_the_others_do_not_notice(estimator, value, optimizer):
    starts = torch.tensor([[-1.0], [49.0], [0.5]], dtype=torch.float64)
    q0 = MeanFieldGaussian(starts, torch.full_like(starts, -2.0))
    fallen = run(estimator, cliff(49.2, value), q0, optimizer=optimizer, num_samples=8)
    intact = run(estimator, lambda z: cliff(49.2, value)(z.clamp_max(49.0)), q0, optimizer=optimizer, num_samples=8)
    step = fallen.failed_at[1].item()
    assert 0 <= step < 30 and fallen.failed_at[[0, 2]].tolist() == [-1, -1]
    close(fallen.path[:, [0, 2]], intact.path[:, [0, 2]], rtol=1e-12, atol=1e-12)
    close(fallen.elbo[:, [0, 2]], intact.elbo[:, [0, 2]], rtol=1e-12, atol=1e-12)
    assert (fallen.path[step:, 1] == fallen.path[max(step - 1, 0), 1]).all() and fallen.path.isfinite().all()
    assert fallen.elbo[step:, 1].isnan().all() and fallen.elbo[:step, 1].isfinite().all()


def test_fits_that_fall_at_different_steps_are_each_marked_at_their_own():
    starts = torch.tensor([[0.0], [2.0], [3.5], [9.0]], dtype=torch.float64)
    q0 = MeanFieldGaussian(starts, torch.full_like(starts, -3.0))
    uphill = lambda z: torch.where(z[..., 0] > 4.0, math.nan, z[..., 0])                    # its slope is one  # noqa: E731
    done = run(pathwise, uphill, q0, optimizer=sgd(0.1), num_steps=25, num_samples=2)
    never, late, soon, at_once = done.failed_at.tolist()
    assert at_once == 0 and 0 < soon < late <= 25 and never == -1
    close(done.path[:, 0, 0], 0.1 * torch.arange(26, dtype=torch.float64))


def test_a_gradient_that_is_not_finite_freezes_too():
    """log p is finite at zero, but its slope is not."""
    q0 = MeanFieldGaussian(tensor([0.0], [1.0]), tensor([-800.0], [-800.0]))
    done = run(pathwise, lambda z: -z[..., 0].abs().sqrt(), q0, optimizer=sgd(0.01), num_steps=3)
    assert done.failed_at.tolist() == [0, -1] and done.path.isfinite().all()


def test_if_all_fits_fall_that_is_an_error_with_the_reason():
    q0 = gaussian(60.0).expand(4)
    with pytest.raises(AllFitsFailed, match=r"All 4 fits failed, the last at step 0. log_joint: returned nan at z = \[") as caught:
        run(pathwise, cliff(49.2, math.nan), q0)
    assert caught.value.failed_at.tolist() == [0, 0, 0, 0]
    q0 = MeanFieldGaussian(tensor([2.0], [3.5]), tensor([-3.0], [-3.0]))
    uphill = lambda z: torch.where(z[..., 0] > 4.0, math.nan, z[..., 0])  # noqa: E731
    with pytest.raises(AllFitsFailed, match="All 2 fits failed") as caught:
        run(pathwise, uphill, q0, optimizer=sgd(0.1))
    assert caught.value.failed_at[0] > 10 > caught.value.failed_at[1] >= 0           # each at its own step
    with pytest.raises(AllFitsFailed, match="All 1 fits failed, the last at step 0"):
        run(pathwise, cliff(49.2, math.nan), gaussian(60.0))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("step_size", [0.3, 0.03])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_wild_fits_end_frozen_or_all_failed_and_in_no_other_way(seed, step_size, dtype):
    q0 = MeanFieldGaussian(torch.zeros(32, 2, dtype=dtype), torch.zeros(32, 2, dtype=dtype))
    try:
        done = fit(score_function, correlated_gaussian(0.9), q0, num_samples=2, num_steps=60, optimizer=sgd(step_size),
                   generator=seeded(seed), record_every=20)
    except AllFitsFailed as error:
        assert (error.failed_at >= 0).all()
    else:
        assert done.path.isfinite().all() and (done.elbo[-1].isnan() == (done.failed_at >= 0)).all()


# ---- where fits end -------------------------------------------------------------------------------------------------


def settle(estimator, target, q0, num_steps=600, num_samples=16, step_size=0.1):
    """The last of a fit on a schedule; Sobol noise, so that little is left to chance."""
    optimizer = adam(step_size, robbins_monro(1.0, num_steps / 10))
    return fit(estimator, target, q0, num_samples=num_samples, num_steps=num_steps, optimizer=optimizer, noise=sobol,
               generator=seeded(), record_steps=()).q


@pytest.mark.parametrize("estimator", [pathwise, sticking_the_landing, score_function], ids=lambda e: e.__name__)
def test_the_logistic_fit_ends_at_the_optimum(estimator):
    q = settle(estimator, logistic_one_coefficient(), gaussian().expand(4))
    close(q.mean, torch.full_like(q.mean, 0.413127), atol=0.03, rtol=0)
    close(q.stddev, torch.full_like(q.stddev, 0.910422), atol=0.03, rtol=0)
    gap = -0.693225 - exact_elbo(logistic_one_coefficient(), q)
    assert (gap > -1e-6).all() and (gap < 2e-3).all()


def test_mean_field_ends_at_the_conditional_variances():
    rho = 0.8
    q = settle(sticking_the_landing, correlated_gaussian(rho), gaussian(0.5, dim=2).expand(4))
    close(q.stddev, torch.full_like(q.stddev, math.sqrt(1 - rho**2)), atol=0.02, rtol=0)
    assert exact_elbo(correlated_gaussian(rho), q).tolist() == pytest.approx([0.5 * math.log(1 - rho**2)] * 4, abs=2e-3)


def test_full_rank_ends_at_the_target_itself():
    """And sticking the landing has no noise there: it ends exactly."""
    sds, rho = (1.0, 2.0), 0.8
    q = settle(sticking_the_landing, correlated_gaussian(rho, sds), full_rank(2))
    assert isinstance(q, FullRankGaussian)
    close(q.covariance, tensor([1.0, 1.6], [1.6, 4.0]).expand(2, 2, 2), atol=1e-3, rtol=0)
    close(q.mean, torch.zeros(2, 2, dtype=torch.float64), atol=1e-3, rtol=0)


def test_the_mixture_fit_ends_on_the_mode_where_it_began():
    q0 = MeanFieldGaussian(tensor([-1.5], [1.5]), tensor([0.0], [0.0]))
    q = settle(pathwise, two_component_mixture(), q0, step_size=0.2, num_samples=64)
    close(q.mean[:, 0], tensor(-2.98431, 2.98431), atol=0.03, rtol=0)
    close(q.stddev[:, 0], tensor(1.02337, 1.02337), atol=0.03, rtol=0)
    close(exact_elbo(two_component_mixture(), q), tensor(-0.688769, -0.688769), atol=2e-3, rtol=0)


def test_a_gaussian_fit_of_a_gaussian_is_exact_and_its_elbo_without_noise():
    done = fit(sticking_the_landing, gaussian_target(2.0, 0.5), gaussian().expand(5), num_samples=2, num_steps=1500,
               optimizer=adam(0.1, robbins_monro(1.0, 50)), generator=seeded())
    close(done.q.mean, torch.full((5, 1), 2.0, dtype=torch.float64), atol=1e-4, rtol=0)
    assert done.elbo[-1].abs().max() < 1e-4


# ---- kidiq: what mean field costs -----------------------------------------------------------------------------------


def kidiq_fit(centred):
    """From near the posterior, since raw and at random starts the narrow valley takes long to walk along."""
    example = kidiq(centred)
    x, y = example.data["x"], example.data["y"]
    design = torch.stack([torch.ones_like(x), x], -1)
    beta = torch.linalg.lstsq(design, y.unsqueeze(-1)).solution[:, 0]
    rss = (y - design @ beta).square().sum()
    scale = (rss / 434).sqrt()
    start = torch.cat([beta, scale.log().unsqueeze(0)])
    widths = torch.stack([scale / 434**0.5, scale / x.square().sum().sqrt(), torch.tensor(434.0).double().rsqrt()])
    whiten = lambda z: example(start + z * widths)                              # so that one step size suits all  # noqa: E731
    q = settle(sticking_the_landing, whiten, gaussian(0.0, 0.5, 3), num_steps=500)
    return example, rss.item(), x, start + widths * q.mean, widths * q.stddev


def test_raw_kidiq_reports_conditional_sds_and_centring_repairs_it():
    """By mean-field algebra σ_i² = 1/E[Λ_ii]: √(RSS/433/434) and √(RSS/433/Σx²), far below the posterior's own."""
    example, rss, x, mean, sd = kidiq_fit(centred=False)
    conditional = [math.sqrt(rss / 433 / 434), math.sqrt(rss / 433 / x.square().sum().item())]
    assert conditional == pytest.approx([0.8758, 0.00866], rel=2e-3)
    assert sd[:2].tolist() == pytest.approx(conditional, rel=0.01)
    true = [example.reference[name]["sd"] for name in ("beta[1]", "beta[2]")]
    assert sd[0] < 0.16 * true[0] and sd[1] < 0.16 * true[1]

    _, rss, x, mean, sd = kidiq_fit(centred=True)
    assert sd[1].item() == pytest.approx(true[1], rel=0.03)                     # the slope's sd is the reference's now
    assert mean[1].item() == pytest.approx(example.reference["beta[2]"]["mean"], abs=0.1 * true[1])
    raw_intercept_sd = math.hypot(sd[0].item(), 100.0 * sd[1].item())           # centred intercept − slope · 100, the mean
    assert raw_intercept_sd == pytest.approx(true[0], rel=0.03)
    sigma = mean[2].exp().item()
    assert sigma == pytest.approx(example.reference["sigma"]["mean"], abs=0.1 * example.reference["sigma"]["sd"])
