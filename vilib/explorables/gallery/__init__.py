"""The book's own explorables, one file each; every function here returns a fresh one, ready to show."""

from .fit_race import fit_race
from .gradient_variance import gradient_variance

__all__ = ["fit_race", "gradient_variance"]
