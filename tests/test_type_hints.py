"""The type hints: complete, strict and true, as mypy reads them; and shipped, so that a reader's mypy reads them too."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: What a reader may write: own models, an own family, an own estimator.
RIGHT = """
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vilib import Fit, MeanFieldGaussian, Model, adam, expectation, fit, normal, pathwise, score_function, value_of
from vilib.types import Estimator, Family, LogJoint


def log_joint(z: Tensor) -> Tensor:
    return -z.square().sum(-1)


def mine(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    return value_of(log_joint(q.sample(eps)).mean(0), gradient_of=q.entropy())


@dataclass(frozen=True)
class Laplacian:
    mu: Tensor
    reparameterizable = True

    @property
    def dim(self) -> int: return self.mu.shape[-1]
    @property
    def batch_shape(self) -> torch.Size: return self.mu.shape[:-1]
    @property
    def num_parameters(self) -> int: return self.dim
    @property
    def mean(self) -> Tensor: return self.mu
    def transform(self, eps: Tensor) -> Tensor: return self.mu + eps
    def sample(self, eps: Tensor) -> Tensor: return self.transform(eps).detach()
    def log_prob(self, z: Tensor) -> Tensor: return -(z - self.mu).abs().sum(-1)
    def entropy(self) -> Tensor: return self.mu.sum(-1)
    def score(self, z: Tensor, coordinates: Sequence[int] | None = None) -> Tensor: return (z - self.mu).sign()
    def score_variance(self, coordinates: Sequence[int] | None = None) -> Tensor: return torch.ones_like(self.mu)
    def vector(self) -> Tensor: return self.mu
    def with_vector(self, vector: Tensor) -> Self: return type(self)(vector)
    def parameter_names(self) -> tuple[str, ...]: return ("mu",)
    def detach(self) -> Self: return type(self)(self.mu.detach())
    def expand(self, *batch: int) -> Self: return type(self)(self.mu.expand(*batch, *self.mu.shape))


q0, generator = MeanFieldGaussian(torch.zeros(1), torch.zeros(1)), torch.Generator()
estimators: list[Estimator] = [pathwise, score_function, mine]
done: Fit[MeanFieldGaussian] = fit(mine, log_joint, q0, num_samples=4, num_steps=9, optimizer=adam(0.1), generator=generator)
omega: Tensor = done.q.omega
own: Laplacian = fit(pathwise, log_joint, Laplacian(torch.zeros(1)), num_samples=4, num_steps=9, generator=generator,
                     optimizer=lambda params: torch.optim.Adam(params, lr=0.1), noise=normal).q
"""

#: One line each that is wrong: the code of mypy's complaint, and the line.
WRONG = [
    ("arg-type", 'fit(mine, log_joint, q0, num_samples="4", num_steps=9, optimizer=adam(0.1), generator=generator)'),
    ("call-arg", "fit(mine, log_joint, q0, num_samples=4, num_steps=9, optimizer=adam(0.1))"),
    ("arg-type", "fit(mine, log_joint, q0, num_samples=4, num_steps=9, optimizer=0.1, generator=generator)"),
    ("arg-type", "expectation(lambda z: z, 3.0)"),
    ("arg-type", 'Model(log_joint, {"sigma": "positive"})'),
    ("attr-defined", "own.omega"),
    ("assignment", "number: int = q0.entropy()"),
    ("arg-type", "mine(log_joint, torch.zeros(1), torch.zeros(4, 1))"),
    ("arg-type", "adam([0.1])"),
]


def test_mypy_finds_nothing_wrong_with_the_package_and_every_wrong_line_of_a_reader(tmp_path):
    """One run for both, with the project's own settings; its cache is kept."""
    reader, lines = tmp_path / "reader.py", RIGHT.splitlines()
    reader.write_text("\n".join([*lines, *(line for _, line in WRONG)]) + "\n")
    command = [sys.executable, "-m", "mypy", "--cache-dir", "_build/.mypy_cache", "--python-executable", sys.executable, "vilib", str(reader)]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, "COLUMNS": "400"}, capture_output=True, text=True)
    said = run.stdout + run.stderr
    errors = [line for line in said.splitlines() if ": error: " in line]
    assert run.returncode == 1 and errors, said

    in_reader = [line for line in errors if reader.name in line]
    assert [line for line in errors if line not in in_reader] == []
    numbers = {int(line.split(f"{reader.name}:")[1].split(":")[0]) for line in in_reader}
    assert numbers == {len(lines) + 1 + i for i in range(len(WRONG))}, said                      # what is right passes
    for i, (code, line) in enumerate(WRONG):
        here = [each for each in in_reader if f"{reader.name}:{len(lines) + 1 + i}: " in each]
        assert any(each.endswith(f"[{code}]") for each in here), f"{line}: {here}"


def test_the_public_api_is_read_strictly():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] and settings["packages"] == ["vilib"]
    relaxed = [module for each in settings["overrides"] if each.get("disallow_untyped_defs") is False for module in each["module"]]
    assert sorted(relaxed) == ["vilib.book", "vilib.coverage", "vilib.reference_pages"]            # no part of the API
    assert not any("ignore_errors" in each for each in settings["overrides"])


def test_what_is_ignored_says_what_and_why():
    for file in (ROOT / "vilib").rglob("*.py"):
        for line in file.read_text(encoding="utf-8").splitlines():
            if "type: ignore" in line:
                assert "type: ignore[" in line and line.split("type: ignore[")[1].partition("]")[2].strip().startswith("# "), line


def test_the_hints_are_shipped():
    assert (ROOT / "vilib" / "py.typed").exists()
    assert "py.typed" in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["vilib"]
