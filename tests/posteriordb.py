"""The models of tests/data/posteriordb as a reader would write them: one draw at a time, and nothing of the answer in them."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributions import Beta, HalfCauchy, HalfNormal, Normal, constraints

from vilib import Model, ordered

FOLDER = Path(__file__).parent / "data" / "posteriordb"


@dataclass(frozen=True)
class Reference:
    """model; reference: name -> {"mean", "sd", …} of NUTS; of(theta): the reader's draws -> {reference name: (N,)}."""

    model: Model
    reference: dict
    of: callable

    def errors(self, posterior) -> dict[str, tuple[float, float]]:
        """name -> (mean's error in reference sds, sd over reference sd)."""
        found = self.of(posterior.draws)
        return {name: ((found[name].mean().item() - known["mean"]) / known["sd"], found[name].std().item() / known["sd"])
                for name, known in self.reference.items()}


def _load(name: str) -> tuple[dict, dict]:
    stored = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return {k: torch.tensor(v) if isinstance(v, list) else v for k, v in stored["data"].items()}, stored["reference"]


def eight_schools() -> Reference:
    data, reference = _load("eight_schools-eight_schools_noncentered")
    y, sigma = data["y"], data["sigma"]

    def log_joint(theta):
        effects = theta["mu"] + theta["tau"] * theta["theta_trans"]
        prior = Normal(0.0, 5.0).log_prob(theta["mu"]) + HalfCauchy(5.0, validate_args=False).log_prob(theta["tau"])
        return prior + Normal(0.0, 1.0).log_prob(theta["theta_trans"]).sum() + Normal(effects, sigma).log_prob(y).sum()

    def of(draws):
        effects = draws["mu"].unsqueeze(-1) + draws["tau"].unsqueeze(-1) * draws["theta_trans"]
        return {"mu": draws["mu"], "tau": draws["tau"], **{f"theta[{j + 1}]": effects[:, j] for j in range(8)}}

    supports = {"mu": constraints.real, "tau": constraints.positive, "theta_trans": constraints.real_vector}
    return Reference(Model(log_joint, supports, {"theta_trans": (8,)}), reference, of)


def sblrc() -> Reference:
    data, reference = _load("sblrc-blr")
    x, y = data["X"].double(), data["y"].double()

    def log_joint(theta):
        prior = Normal(0.0, 10.0).log_prob(theta["beta"]).sum() + HalfNormal(10.0, validate_args=False).log_prob(theta["sigma"])
        return prior + Normal(x @ theta["beta"].double(), theta["sigma"]).log_prob(y).sum()

    def of(draws):
        return {"sigma": draws["sigma"], **{f"beta[{j + 1}]": draws["beta"][:, j] for j in range(5)}}

    return Reference(Model(log_joint, {"beta": constraints.real_vector, "sigma": constraints.positive}, {"beta": (5,)}), reference, of)


def kidiq(centred: bool) -> Reference:
    data, reference = _load("kidiq-kidscore_momiq")
    score, iq = data["kid_score"].double(), data["mom_iq"].double()
    shift = iq.mean() if centred else 0.0

    def log_joint(theta):
        mean = theta["alpha"] + theta["slope"] * (iq - shift)
        return Normal(mean, theta["sigma"]).log_prob(score).sum() + HalfCauchy(2.5, validate_args=False).log_prob(theta["sigma"])

    def of(draws):
        return {"beta[1]": draws["alpha"] - draws["slope"] * shift, "beta[2]": draws["slope"], "sigma": draws["sigma"]}

    supports = {"alpha": constraints.real, "slope": constraints.real, "sigma": constraints.positive}
    return Reference(Model(log_joint, supports), reference, of)


def low_dim_gauss_mix() -> Reference:
    data, reference = _load("low_dim_gauss_mix-low_dim_gauss_mix")
    y = data["y"].double()

    def log_joint(theta):
        prior = (Normal(0.0, 2.0).log_prob(theta["mu"]).sum() + HalfNormal(2.0, validate_args=False).log_prob(theta["sigma"]).sum()
                 + Beta(5.0, 5.0, validate_args=False).log_prob(theta["theta"]))
        each = [Normal(theta["mu"][k], theta["sigma"][k]).log_prob(y) for k in (0, 1)]
        return prior + torch.logaddexp(theta["theta"].log() + each[0], torch.log1p(-theta["theta"]) + each[1]).sum()

    def of(draws):
        pairs = {f"{name}[{k + 1}]": draws[name][:, k] for name in ("mu", "sigma") for k in (0, 1)}
        return {**pairs, "theta": draws["theta"]}

    supports = {"mu": ordered, "sigma": constraints.positive, "theta": constraints.unit_interval}
    return Reference(Model(log_joint, supports, {"mu": (2,), "sigma": (2,)}), reference, of)
