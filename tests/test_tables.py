"""A table of a 1-D log joint: its error keeps the bound of cubic Hermite interpolation, and it refuses what lies outside."""

import math

import pytest
import torch
from helpers import gaussian, seeded

from vilib import ShapeError, adam, fit, logistic_one_coefficient, nested_study, normal, pathwise, tabulate, value_and_gradient

close = torch.testing.assert_close


def many_observations():
    x = torch.randn(100, generator=seeded(1), dtype=torch.float64)
    return logistic_one_coefficient(x, (torch.rand(100, generator=seeded(2), dtype=torch.float64) < torch.sigmoid(x)).double())


@pytest.mark.parametrize("num_nodes", [33, 129, 513])
def test_the_error_keeps_its_bound(num_nodes):
    """sin has a fourth derivative of at most 1, so the bounds are h⁴/384 and √3 h³/216; they are nearly met."""
    table = tabulate(lambda z: z[..., 0].sin(), -6.0, 6.0, num_nodes)
    step = 12.0 / (num_nodes - 1)
    z = torch.linspace(-6.0, 6.0, 20_001, dtype=torch.float64).unsqueeze(-1)
    error = (table(z) - z[..., 0].sin()).abs().max()
    slope_error = (table.slope(z) - z.cos()).abs().max()
    assert 0.9 * step**4 / 384 < error <= step**4 / 384 * 1.0001
    assert 0.9 * step**3 * math.sqrt(3) / 216 < slope_error <= step**3 * math.sqrt(3) / 216 * 1.001
    close(error.item(), table.error, rtol=1e-3, atol=1e-13)
    close(slope_error.item(), table.slope_error, rtol=2e-2, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 2e-8), (torch.float32, 3e-5)], ids=["float64", "float32"])
def test_2048_nodes_hold_a_hundred_observations(dtype, tolerance):
    """Relative to the scale of the log joint, some hundreds of nats, the table is as good as float32 is."""
    f = many_observations()
    table = tabulate(f, -12.0, 12.0)
    z = (24 * torch.rand(4, 1000, 1, generator=seeded(), dtype=torch.float64) - 12).to(dtype)
    exact = f.log_joint(z.double())
    assert table(z).dtype == dtype and table(z).shape == (4, 1000) and exact.abs().max() > 100
    assert (table(z) - exact).abs().max() < tolerance * exact.abs().max()
    assert (table.slope(z) - f.slope(z.double())).abs().max() < 40 * tolerance
    value, slope = table.value_and_slope(z)
    close(value, table(z), rtol=1e-6, atol=1e-6)
    close(slope, table.slope(z))


def test_it_is_a_log_joint_like_any_other():
    f, q = many_observations(), gaussian(0.3, -1.0)
    table = tabulate(f, -12.0, 12.0)
    z = torch.linspace(-11.99, 11.99, 101, dtype=torch.float64).unsqueeze(-1).requires_grad_()
    close(torch.autograd.grad(table(z).sum(), z)[0], table.slope(z.detach()))
    eps = normal(64, (20,), 1, generator=seeded(), dtype=torch.float64)
    direct, read = (nested_study(g, q, eps, elbo=True) for g in (f, table))
    for name in direct:
        close(read[name], direct[name], rtol=1e-5, atol=1e-5, equal_nan=True)
    for found, exact in zip(value_and_gradient(pathwise, table, q, eps[:, 0]), value_and_gradient(pathwise, f, q, eps[:, 0])):
        close(found, exact, rtol=1e-6, atol=1e-6)
    done = fit(pathwise, table, q, num_samples=8, num_steps=50, optimizer=adam(0.05), generator=seeded())
    close(done.q.mean, fit(pathwise, f, q, num_samples=8, num_steps=50, optimizer=adam(0.05), generator=seeded()).q.mean, rtol=1e-5, atol=1e-5)


def test_both_ends_belong_to_it_and_nothing_beyond():
    table = tabulate(lambda z: -z[..., 0].square(), -2.0, 2.0, 9)
    close(table(torch.tensor([[-2.0], [2.0]])), torch.tensor([-4.0, -4.0]))
    for outside in (-2.001, 2.001, math.nan, math.inf):
        with pytest.raises(ShapeError, match=r"the table holds \[-2, 2\], and a draw lies outside.* Tabulate a wider range"):
            table(torch.tensor([[0.0], [outside]]))
    with pytest.raises(ShapeError, match=r"a table has one dimension, expected \(\.\.\., 1\), got \(3, 2\)"):
        table(torch.zeros(3, 2))


@pytest.mark.parametrize("lower, upper, num_nodes", [(1.0, 1.0, 10), (2.0, 1.0, 10), (0.0, 1.0, 1), (math.nan, 1.0, 10)])
def test_a_range_that_is_none(lower, upper, num_nodes):
    with pytest.raises(ShapeError, match="lower < upper and num_nodes ≥ 2, got"):
        tabulate(lambda z: z[..., 0], lower, upper, num_nodes)


def test_each_dtype_has_coefficients_of_its_own_and_they_outlive_inference():
    """They are made once and kept: as plain tensors, even if the first to ask is in inference mode."""
    f, z = many_observations(), torch.linspace(-3.0, 3.0, 7, dtype=torch.float64).unsqueeze(-1)
    table = tabulate(f, -12.0, 12.0)
    with torch.inference_mode():
        single = table(z.float())
    again = z.float().requires_grad_()
    value = table(again)
    close(value.detach(), single)
    close(torch.autograd.grad(value.sum(), again)[0], table.slope(z.float()))
    assert table(z).dtype == torch.float64 and (table(z) - single).abs().max() > 0
