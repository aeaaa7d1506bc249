"""Training a VAE: its steps, its history, what it leaves alone, and how fast it is."""

import sys
import time
import types

import pytest
import torch
from helpers import seeded
from test_amortized import ALL, binary, small

from vilib import (
    BernoulliDecoder, DependentDraws, GeneratorDeviceError, MissingGenerator, NonFiniteLogJoint, ShapeError,
    VilibError, adagrad, adam, analytic_kl, antithetic, digits, iwae, leave_one_out, mlp_vae, normal, rmsprop, sgd,
    sticking_the_landing, train,
)
from vilib.progress import counted

close = torch.testing.assert_close
DATA = binary(23)


def run(vae=None, data=DATA, **options):
    vae = small() if vae is None else vae
    options = {"num_epochs": 3, "batch_size": 10, "optimizer": adam(0.02), "generator": seeded(5), **options}
    return vae, train(vae, data, **options)


def parameters(vae) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


# ---- the steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours, theirs, options", [
    (sgd, torch.optim.SGD, {}), (rmsprop, torch.optim.RMSprop, {}), (adagrad, torch.optim.Adagrad, {}), (adam, torch.optim.Adam, {}),
], ids=lambda x: getattr(x, "__name__", ""))
def test_our_optimizers_and_torchs_train_alike(ours, theirs, options):
    one, first = run(optimizer=ours(0.02), num_epochs=10)
    other, second = run(optimizer=lambda params: theirs(params, lr=0.02, **options), num_epochs=10)
    close(parameters(one), parameters(other), rtol=1e-6, atol=1e-6)
    close(first.elbo, second.elbo, rtol=1e-6, atol=1e-6)


def test_an_optimizer_with_a_closure_of_its_own_works_too():
    _, done = run(optimizer=lambda params: torch.optim.LBFGS(params, lr=0.1), batch_size=23)
    assert done.elbo[-1] > done.elbo[0]


def test_a_step_is_the_gradient_of_the_mean_elbo_of_a_minibatch():
    vae, by_hand, generator = small(), small(), seeded(5)
    run(vae, optimizer=sgd(0.1), num_epochs=1, num_samples=3)
    order = torch.randperm(23, generator=generator)
    eps = normal(3, (23,), 2, generator=generator, dtype=torch.float64)
    for rows in (slice(0, 10), slice(10, 20), slice(20, 23)):
        value = by_hand.elbo(DATA[order][rows], eps[:, rows]).mean()
        for p, g in zip(by_hand.parameters(), torch.autograd.grad(value, list(by_hand.parameters()))):
            p.data += 0.1 * g
    close(parameters(vae), parameters(by_hand))


@pytest.mark.parametrize("batch_size", [1, 10, 23, 100])
def test_the_elbo_of_an_epoch_is_the_mean_over_the_data(batch_size):
    """With a step of zero nothing moves, and each minibatch counts by its rows."""
    vae, generator = small(), seeded(5)
    _, done = run(vae, optimizer=sgd(0.0), num_epochs=2, batch_size=batch_size)
    for epoch in range(2):
        order = torch.randperm(23, generator=generator)
        eps = normal(1, (23,), 2, generator=generator, dtype=torch.float64)
        assert done.elbo[epoch].item() == pytest.approx(vae.elbo(DATA[order], eps).mean().item(), rel=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_every_estimator_trains_encoder_and_decoder(name):
    vae, start = small(), small()
    run(vae, estimator=ALL[name], num_samples=4)
    for part in ("encoder", "decoder"):
        before, after = (parameters(getattr(v, part)) for v in (start, vae))
        assert after.isfinite().all() and (after != before).all()


def test_training_climbs_with_every_kind_of_gradient():
    """Draws of the model itself; the mean of its closed-form ELBO over 200 fixed draws, before and after."""
    z = normal(1, (200,), 2, generator=seeded(1), dtype=torch.float64)
    data = small(seed=9).decoder.sample(3 * z[0], generator=seeded(2))
    eps = normal(200, (200,), 2, generator=seeded(3), dtype=torch.float64)
    for estimator in (analytic_kl, sticking_the_landing, leave_one_out, iwae):
        vae = small()
        before = vae.elbo(data, eps).mean()
        run(vae, data, estimator=estimator, num_samples=8, num_epochs=40, batch_size=50)
        assert vae.elbo(data, eps).mean() > before + 0.1, estimator.__name__


def test_the_same_seed_is_the_same_training_and_touches_nothing_global():
    state = torch.get_rng_state()
    (one, first), (again, second), (other, _) = run(), run(), run(generator=seeded(6))
    assert torch.equal(parameters(one), parameters(again)) and torch.equal(first.elbo, second.elbo)
    assert not torch.equal(parameters(one), parameters(other))
    assert torch.equal(torch.get_rng_state(), state)


# ---- what it leaves behind ------------------------------------------------------------------------------------------


def test_the_history_has_an_entry_an_epoch():
    _, done = run(num_epochs=4)
    assert done.elbo.shape == done.seconds.shape == (4,) and done.elbo.dtype == done.seconds.dtype == torch.float64
    assert (done.seconds > 0).all() and done.elbo.isfinite().all()
    assert run(num_epochs=0)[1].elbo.shape == (0,)


@pytest.mark.parametrize("optimizer", [adam(0.02), lambda params: torch.optim.SGD(params, lr=0.1)], ids=["ours", "torch's"])
def test_each_parameter_keeps_its_memory_and_carries_no_gradient(optimizer):
    vae = small()
    before = [(p, p.data_ptr()) for p in vae.parameters()]
    run(vae, optimizer=optimizer)
    for (p, pointer), after in zip(before, vae.parameters()):
        assert p is after and p.data_ptr() == pointer and p.grad is None and p.requires_grad and p.is_contiguous()


@pytest.mark.parametrize("optimizer", [adam(0.02), lambda params: torch.optim.SGD(params, lr=0.1)], ids=["ours", "torch's"])
def test_what_is_frozen_stays(optimizer):
    vae, start = small(), small()
    vae.decoder.requires_grad_(False)
    run(vae, optimizer=optimizer)
    assert torch.equal(parameters(vae.decoder), parameters(start.decoder))
    assert not torch.equal(parameters(vae.encoder), parameters(start.encoder))


def test_on_epoch_sees_the_parameters_of_its_epoch():
    seen = []
    vae = small()
    _, done = run(vae, on_epoch=lambda epoch, elbo: seen.append((epoch, elbo, parameters(vae))))
    assert [s[0] for s in seen] == [0, 1, 2] and [s[1] for s in seen] == done.elbo.tolist()
    assert torch.equal(seen[-1][2], parameters(vae)) and not torch.equal(seen[0][2], seen[1][2])


def test_an_interrupted_training_leaves_a_usable_vae():
    class Enough(Exception):
        pass

    def stop(epoch, elbo):
        if epoch == 1:
            raise Enough

    stopped, whole = small(), small()
    with pytest.raises(Enough):
        run(stopped, on_epoch=stop, num_epochs=50)
    run(whole, num_epochs=2)
    assert torch.equal(parameters(stopped), parameters(whole))


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, error, message", [
    ({"data": DATA[:0]}, ShapeError, "data: it is empty"),
    ({"data": DATA * torch.nan}, VilibError, "data: row 0 holds nan"),
    ({"data": DATA * 255}, VilibError, r"data: a BernoulliDecoder takes values in \[0, 1\], got \[0, 255\]"),
    ({"data": DATA[:, :4]}, ShapeError, r"data: the encoder cannot take rows of shape \(4,\)"),
    ({"data": DATA.float()}, VilibError, "data: torch.float32 on 'cpu'"),
    ({"batch_size": 0}, VilibError, "batch_size and num_samples at least 1, got 3, 0 and 1"),
    ({"num_epochs": -1}, VilibError, "num_epochs at least 0"),
    ({"num_samples": 0}, VilibError, "at least 1, got 3, 10 and 0"),
    ({"generator": None}, MissingGenerator, "generator: expected a torch.Generator"),
    ({"estimator": leave_one_out, "noise": antithetic, "num_samples": 2}, DependentDraws, "leave_one_out learns its baseline"),
    ({"estimator": leave_one_out}, ShapeError, "leave_one_out needs at least 2 draws, got 1"),
])
def test_what_does_not_fit_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        run(**options)


def test_a_vae_without_anything_to_train_is_refused():
    with pytest.raises(VilibError, match="vae: it has no parameter with requires_grad=True"):
        run(small().requires_grad_(False))


def test_a_training_that_runs_away_says_so():
    with pytest.raises(NonFiniteLogJoint, match="q has run away"):
        run(optimizer=sgd(1e6), num_epochs=50)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_training_on_cuda():
    generator = torch.Generator("cuda").manual_seed(0)
    vae, images = mlp_vae(64, 2, (32,), generator=generator), digits()[0].cuda()
    done = train(vae, images, num_epochs=3, batch_size=128, optimizer=adam(0.01), generator=generator)
    assert done.elbo[-1] > done.elbo[0] and next(vae.parameters()).is_cuda
    with pytest.raises(GeneratorDeviceError):
        train(vae, images, num_epochs=1, batch_size=128, optimizer=adam(0.01), generator=seeded())


# ---- the digits -----------------------------------------------------------------------------------------------------


def test_a_vae_learns_the_digits_and_an_epoch_is_short():
    """50 ms an epoch on one core is the aim; the bound here leaves a busy machine room, and takes the quickest of 15 epochs."""
    vae, generator = mlp_vae(64, 2, (64,), generator=seeded()), seeded()
    done = train(vae, digits()[0], num_epochs=15, batch_size=128, optimizer=adam(0.01), generator=generator)
    independent_pixels = BernoulliDecoder(torch.nn.Identity()).log_prob(
        digits()[0], torch.logit(digits()[0].mean(0), eps=1e-6).expand(1, 1797, 64)).mean()
    assert done.elbo[-1] > independent_pixels + 1 and done.elbo[0] < done.elbo[4] < done.elbo[-1]
    assert done.seconds.min() < 0.2


# ---- the bar --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bars(monkeypatch):
    made = []

    class Bar:
        def __init__(self, **options):
            self.options, self.updates, self.closed = options, 0, False
            made.append(self)

        def update(self, count):
            self.updates += count

        def close(self):
            self.closed = True

    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))
    return made


def test_a_short_run_has_no_bar(bars):
    run()
    assert list(counted(3, "step")) == [0, 1, 2] and bars == []


def test_a_bar_is_there_on_demand_and_not_against_it(bars):
    run(progress=True)
    (bar,) = bars
    assert bar.options == {"total": 3, "initial": 0, "unit": "epoch"} and bar.updates == 3 and bar.closed
    list(counted(3, "step", progress=False, patience=-1.0))
    assert len(bars) == 1


def test_a_long_run_gets_a_bar_on_the_way(bars):
    for _ in counted(5, "step", patience=0.05):
        time.sleep(0.03)
    (bar,) = bars
    assert 2 <= bar.options["initial"] + bar.updates == 5 and bar.options["initial"] >= 2 and bar.closed


def test_without_tqdm_there_is_no_bar_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(counted(3, "step", patience=-1.0)) == [0, 1, 2]
    with pytest.raises(ModuleNotFoundError):
        list(counted(3, "step", progress=True))


def test_a_real_bar_counts(capsys):
    pytest.importorskip("tqdm")
    list(counted(3, "epoch", progress=True))
    assert "3/3" in capsys.readouterr().err
