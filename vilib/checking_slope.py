"""Is the slope that I wrote right?  A marker for log joints that bring their own gradient.

Autograd differentiates any log joint; one that brings its derivative, as ``value_and_slope(z)`` or ``slope(z)``, is taken at its word,
and a slip in it makes every pathwise gradient wrong without an error.  Its values are not in doubt, so autograd is the judge.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vilib.checks import Report, described, failed, raised
from vilib.models import _by_autograd
from vilib.noise import normal
from vilib.types import LogJoint

_TOLERANCE = 1e-6


def check_slope(log_joint: LogJoint, dim: int, *, seed: int = 0) -> Report:
    """Compare the gradient that ``log_joint`` brings with autograd's of its values, and say in words what is wrong.

    log_joint: z (..., D) -> (...), with ``value_and_slope(z)``, which returns (...) and (..., D), or with ``slope(z)``, (..., D).
    dim: the D of z.

    It is asked at 120 draws of N(0, 1.5²), float64, as (60, 2, D).  What raises is reported, not raised.

    >>> class Mine:
    ...     def __call__(self, z):
    ...         return -z.square().sum(-1) / 2
    ...     def slope(self, z):
    ...         return z
    >>> check_slope(Mine(), dim=3).slip
    'wrong sign'
    """
    both, alone = getattr(log_joint, "value_and_slope", None), getattr(log_joint, "slope", None)
    if both is None and alone is None:
        return failed("no slope", "It brings neither value_and_slope(z) nor slope(z): autograd differentiates it, and there is nothing to check.")
    z = 1.5 * normal(60, (2,), dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    try:
        value, exact = _by_autograd(log_joint, z)
        (said, found), (_, apart) = (_ask(log_joint, part) for part in (z, z[:2, 1]))
    except Exception as error:
        return raised(error, f"on z of shape {tuple(z.shape)}")
    asked = (("the value of value_and_slope", said, z.shape[:-1]),) * (both is not None) + (("the slope", found, z.shape),)
    for what, result, shape in asked:
        if not isinstance(result, Tensor) or result.shape != shape:
            return failed("shape", f"For z {tuple(z.shape)} = (S, *R, D), {what} came as {described(result)}, expected {tuple(shape)}.")
    if found.dtype != z.dtype:
        return failed("dtype", f"For z in {z.dtype} the slope came in {found.dtype}. Make constants of z's dtype: x.to(z).")
    if not torch.isfinite(found).all():
        return failed("not finite", f"The slope is not finite at z = {z[~torch.isfinite(found).all(-1)][0].tolist()}, where the log joint is.")
    if not _same(apart, found[:2, 1], exact):
        return failed("leak", "Draws leak into each other: two of them have another slope alone than among the rest. All but the last axis is a "
                      "batch: reduce over the last axis only, .sum(-1).")
    if said is not None and not _same(said, value, value):
        worst = (said - value).abs().max().item()
        return failed("value", f"value_and_slope(z) returns another value than the log joint itself, by up to {worst:.3g} nats.")
    if _same(found, exact, exact):
        largest = (found - exact).abs().max().item()
        return Report(True, (f"At {z[..., 0].numel()} draws its slope is autograd's, to {largest:.1g}.",))
    if _same(-found, exact, exact):
        return failed("wrong sign", "It is minus the gradient of the log joint. The ELBO is climbed, so the slope is ∇ log p, not that of a loss.")
    return failed("coordinates", *_by_coordinate(found, exact))


def _ask(log_joint: Any, z: Tensor) -> tuple[Any, Any]:
    """What it says: a value, if it says one, and the slope.  What it makes of draws nobody else may change."""
    z = z.clone()
    if hasattr(log_joint, "value_and_slope"):
        value, slope = log_joint.value_and_slope(z)
        return value, slope
    return None, log_joint.slope(z)


def _same(a: Tensor, b: Tensor, scale: Tensor) -> bool:
    return bool(((a - b).abs() <= _TOLERANCE * (1 + scale.abs().max())).all())


def _by_coordinate(found: Tensor, exact: Tensor) -> list[str]:
    """A line for each coordinate that is off, five at most."""
    off = [d for d in range(exact.shape[-1]) if not _same(found[..., d], exact[..., d], exact[..., d])]
    lines = [f"The slope in {len(off)} of {exact.shape[-1]} coordinates is not that of the log joint."]
    for d in off[:5]:
        mine, right = found[..., d].flatten(), exact[..., d].flatten()
        factor, gap = (mine @ right / (right @ right).clamp_min(1e-300)).item(), mine - right
        if _same(mine, factor * right, right):
            lines.append(f"z[{d}]: it is {factor:.4g} times what it should be." if factor else f"z[{d}]: it is zero, and should not be.")
        elif _same(gap, gap.mean(), right):
            lines.append(f"z[{d}]: it is {gap.mean().abs():.4g} too {'high' if gap.mean() > 0 else 'low'} everywhere: a constant is missing, or too much.")
        else:
            worst = int(gap.abs().argmax())
            lines.append(f"z[{d}]: for example {mine[worst]:.4g} where it should be {right[worst]:.4g}.")
    return lines + ([f"And {len(off) - 5} more."] if len(off) > 5 else [])
