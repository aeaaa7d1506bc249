"""The book's own explorables, one file each; every function here returns a fresh one, ready to show."""

from .advi_lab import advi_lab
from .elbo_bars import elbo_bars
from .fit_race import fit_race
from .gradient_variance import gradient_variance
from .posterior_three_ways import posterior_three_ways

__all__ = ["advi_lab", "elbo_bars", "fit_race", "gradient_variance", "posterior_three_ways"]
