"""A log joint of one dimension as a table: what a slider asks over and over, read off instead of computed.

Between neighbouring nodes a cubic Hermite polynomial takes the values and the slopes of the log joint at both, so its error falls with
the fourth power of the step: at most step⁴/384 times the largest fourth derivative, and step³ √3/216 times it for the slope
(Birkhoff & Priver 1967).  What N observations cost is paid once a node, and no more for each draw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vilib.models import value_and_slope
from vilib.types import LogJoint, ShapeError


class Table:
    """A log joint z (..., 1) -> (...) on [lower, upper], with its slope; made by :func:`tabulate`.

    ``error`` and ``slope_error``: the largest differences from the log joint, looked for where they are largest between two nodes.
    Called outside its range it raises ShapeError: a polynomial knows nothing there.
    """

    def __init__(self, lower: float, upper: float, coefficients: Tensor, error: float, slope_error: float):
        self.lower, self.upper, self.error, self.slope_error = lower, upper, error, slope_error
        self._coefficients = coefficients                             # (4, intervals), of t⁰ … t³, float64
        self._like: dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]] = {}

    def __call__(self, z: Tensor) -> Tensor:
        a, b, c, d, t = self._at(z)
        return torch.addcmul(a, t, torch.addcmul(b, t, torch.addcmul(c, t, d)))

    def slope(self, z: Tensor) -> Tensor:
        """∇_z log p(x, z), (..., 1)."""
        return self.value_and_slope(z)[1]

    def value_and_slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both at the price of one look: (...) and (..., 1)."""
        a, b, c, d, t = self._at(z)
        upper = torch.addcmul(c, t, d)                                # c + t d, of which both are made
        inner = torch.addcmul(b, t, upper)
        rise = torch.addcmul(inner, t, torch.addcmul(upper, t, d))    # b + 2 t c + 3 t² d
        return torch.addcmul(a, t, inner), (rise * self._as(z)[1]).unsqueeze(-1)

    def _as(self, z: Tensor) -> tuple[Tensor, ...]:
        """Of z's dtype and on its device: the position of 0 in intervals from ``lower``, the intervals a unit, the coefficients."""
        kind = z.dtype, z.device
        if kind not in self._like:
            per_unit = self._coefficients.shape[1] / (self.upper - self.lower)
            numbers = (-self.lower * per_unit, per_unit, *self._coefficients.unbind())
            with torch.inference_mode(False):                         # they are kept, so they must be tensors like any other
                self._like[kind] = tuple(torch.as_tensor(x, dtype=z.dtype, device=z.device) for x in numbers)
        return self._like[kind]

    def _at(self, z: Tensor) -> tuple[Tensor, ...]:
        """The four coefficients where z lies, and t in [0, 1] from the node on its left."""
        if z.ndim == 0 or z.shape[-1] != 1:
            raise ShapeError(f"z: a table has one dimension, expected (..., 1), got {tuple(z.shape)}.")
        origin, per_unit, *coefficients = self._as(z)
        position = torch.addcmul(origin, z.squeeze(-1), per_unit)
        last = self._coefficients.shape[1] - 1
        least, most = torch.aminmax(position.detach())
        if not (least >= 0 and most <= last + 1):
            raise ShapeError(
                f"z: the table holds [{self.lower:g}, {self.upper:g}], and a draw lies outside: they run from "
                f"{z.min().item():.4g} to {z.max().item():.4g}. Tabulate a wider range."
            )
        interval = position.detach().int().clamp_(max=last)
        index = interval.flatten()
        columns = (column.index_select(0, index).view_as(interval) for column in coefficients)
        return *columns, position - interval


def tabulate(log_joint: LogJoint, lower: float, upper: float, num_nodes: int = 2048) -> Table:
    """A :class:`Table` of a 1-D log joint on [lower, upper], from its values and slopes at ``num_nodes`` equal steps, in float64.

    log_joint: z (..., 1) -> (...).  The result may stand wherever a log joint does; it is differentiable, and brings its ``slope``.
    Raises ShapeError (an empty range, fewer than 2 nodes), and what the log joint raises.

    >>> table = tabulate(lambda z: -0.5 * z[..., 0].square(), -8.0, 8.0)
    >>> table(torch.tensor([[1.0]])), table.slope(torch.tensor([[1.0]])), table.error < 1e-12
    (tensor([-0.5000]), tensor([[-1.]]), True)
    """
    if not (lower < upper and num_nodes >= 2):
        raise ShapeError(f"lower < upper and num_nodes ≥ 2, got [{lower}, {upper}] and {num_nodes}.")
    nodes = torch.linspace(lower, upper, num_nodes, dtype=torch.float64).unsqueeze(-1)
    step = (upper - lower) / (num_nodes - 1)
    f, slope = value_and_slope(log_joint, nodes)
    m = slope.squeeze(-1) * step
    rise = f[1:] - f[:-1]
    table = Table(lower, upper, torch.stack([f[:-1], m[:-1], 3 * rise - 2 * m[:-1] - m[1:], m[:-1] + m[1:] - 2 * rise]), 0.0, 0.0)
    between = nodes[:-1] + 0.5 * step
    (f, slope), (read, read_slope) = value_and_slope(log_joint, between), table.value_and_slope(between)
    table.error = float((f - read).abs().max())
    aside = nodes[:-1] + (0.5 - 3**0.5 / 6) * step                    # where the slope is worst; half-way it is all but exact
    table.slope_error = float((value_and_slope(log_joint, aside)[1] - table.slope(aside)).abs().max())
    return table
