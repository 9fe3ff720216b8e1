"""Averaged weights (EMA): the formula, what must not be averaged, and the temporary swap with the live weights."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hf_dmt.models.loading import CheckpointError
from hf_dmt.models.weights.ema import EMA_FILE, ExponentialAverage


class Numbers(nn.Module):
    """A parameter, a float statistic, a counter and an index table."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2, 2), value))
        self.register_buffer("mean", torch.full((2,), value))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("table", torch.tensor([[3, 1], [2, 0]]))


def set_all(module: Numbers, value: float) -> None:
    with torch.no_grad():
        module.weight.fill_(value)
        module.mean.fill_(value)
        module.steps.fill_(int(value))


@pytest.mark.parametrize(("official", "expected"), [(False, 0.001), (True, 0.999)])
def test_one_step_from_zero_to_one(official, expected):
    """One step from 0 to 1 gives 0.001. The official code swaps the factors: its average is 0.999, so it averages
    nothing."""
    module = Numbers(0.0)
    average = ExponentialAverage(module, 0.999, official=official)
    set_all(module, 1.0)
    average.update()
    assert average.state["weight"].unique().item() == pytest.approx(expected)
    assert average.state["mean"].unique().item() == pytest.approx(expected)


def test_many_steps_follow_the_formula():
    """Guards against an update that starts from the live weights instead of the average: only its first step is
    right."""
    module, generator = Numbers(0.0), torch.Generator().manual_seed(0)
    average, expected = ExponentialAverage(module, 0.9), torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(20):
        with torch.no_grad():
            module.weight.copy_(torch.rand(2, 2, generator=generator))
        average.update()
        expected = 0.9 * expected + 0.1 * module.weight.detach().double()
    torch.testing.assert_close(average.state["weight"].double(), expected, atol=1e-6, rtol=1e-6)


def test_decay_zero_is_the_last_weights():
    """A decay of 0, the lower end of the range, means no averaging: the average equals the last weights."""
    module = Numbers(0.0)
    average = ExponentialAverage(module, 0.0)
    set_all(module, 0.3)
    average.update()
    assert torch.equal(average.state["weight"], module.weight)


def test_integers_are_copied():
    """Integers must be copied: a rounded average of a counter never changes, and one of an index table points to wrong
    rows."""
    module = Numbers()
    average = ExponentialAverage(module, 0.999)
    module.steps.fill_(7)
    module.table.copy_(torch.tensor([[0, 0], [9, 9]]))
    average.update()
    assert average.state["steps"].item() == 7
    assert torch.equal(average.state["table"], module.table)
    assert average.state["table"].dtype == torch.int64


def test_relative_position_index_survives(build):
    """Averaging must not change Swin's relative position index. It is not trained, and whether it is part of the state
    changed between releases."""
    model, _ = build("swin")
    index = {name: value.clone() for name, value in model.named_buffers() if "relative_position_index" in name}
    assert index
    average = ExponentialAverage(model, 0.9)
    for _ in range(5):
        average.update()
    with average.applied():
        buffers = dict(model.named_buffers())
        assert all(torch.equal(value, buffers[name]) for name, value in index.items())


def test_applied_restores_every_bit_even_after_an_error(build):
    """Weights that come back changed in the last digit break bit-identical resume, and averages left in the model ruin
    training. Both must not happen after an error either."""
    model, _ = build("resnet")
    average = ExponentialAverage(model, 0.5)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.rand_like(value) / 3)
    average.update()
    live = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters())
    with pytest.raises(KeyError), average.applied():
        inside = {name: value.clone() for name, value in model.state_dict().items()}
        raise KeyError
    assert all(torch.equal(value, average.state[name]) for name, value in inside.items())
    assert not torch.equal(inside["classifier.1.weight"], live["classifier.1.weight"])
    assert all(torch.equal(value, live[name]) for name, value in model.state_dict().items())
    assert all(old is new for old, new in zip(parameters, model.parameters(), strict=True))


def test_average_is_not_the_live_tensors():
    """Guards against an average that shares its tensors with the model and so follows every optimizer step at once."""
    module = Numbers(0.0)
    average = ExponentialAverage(module, 0.9)
    set_all(module, 5.0)
    assert average.state["weight"].eq(0).all()
    average.restart()
    assert average.state["weight"].eq(5).all()
    set_all(module, 6.0)
    assert average.state["weight"].eq(5).all()


def test_two_precisions_in_one_module():
    """The fused update takes lists of tensors: a bfloat16 layer beside a float32 one must be averaged too and stay
    bfloat16."""
    module = nn.ModuleDict({"single": nn.Linear(2, 2), "small": nn.Linear(2, 2).to(torch.bfloat16)})
    average = ExponentialAverage(module, 0.5)
    start = average.state["small.weight"].clone()
    with torch.no_grad():
        module["small"].weight.add_(1)
    average.update()
    torch.testing.assert_close(average.state["small.weight"], start + 0.5, atol=1e-2, rtol=0)
    assert average.state["small.weight"].dtype == torch.bfloat16


def test_tied_weights_stay_averaged():
    """Guards against tied weights that lose their average: loading a live copy under the second name would undo it."""
    module = nn.ModuleDict({"one": nn.Linear(2, 2, bias=False), "two": nn.Linear(2, 2, bias=False)})
    module["two"].weight = module["one"].weight
    nn.init.zeros_(module["one"].weight)
    average = ExponentialAverage(module, 0.75)
    nn.init.ones_(module["one"].weight)
    average.update()
    with average.applied():
        assert module["one"].weight.eq(0.25).all()


def test_save_and_load_go_on_exactly(tmp_path):
    """A resumed run must continue the saved average; restarted from the live weights, it would give other pseudo
    labels."""
    module = Numbers(0.0)
    average = ExponentialAverage(module, 0.9)
    set_all(module, 1.0)
    average.update()
    average.save(tmp_path)
    resumed = ExponentialAverage(module, 0.9)
    resumed.load(tmp_path)
    assert all(torch.equal(value, resumed.state[name]) for name, value in average.state.items())
    set_all(module, 2.0)
    average.update()
    resumed.update()
    assert all(torch.equal(value, resumed.state[name]) for name, value in average.state.items())


def test_average_of_another_pair_is_refused(tmp_path):
    """Guards against loading the average of another pair: a tensor of shape (1,) would be broadcast without an
    error."""
    average = ExponentialAverage(Numbers(), 0.9)
    average.save(tmp_path)
    saved = load_file(tmp_path / EMA_FILE)
    for wrong in ({**saved, "mean": torch.zeros(1)}, {**saved, "more": torch.zeros(1)}, {"weight": saved["weight"]}):
        save_file(wrong, tmp_path / EMA_FILE)
        with pytest.raises(CheckpointError, match="belongs to another pair"):
            average.load(tmp_path)


def test_damaged_or_missing_average_is_a_clear_error(tmp_path):
    """A truncated or missing file must be named in the error, instead of a traceback from the tensor library."""
    average = ExponentialAverage(Numbers(), 0.9)
    for content in (None, b"", b"12345678 not tensors"):
        if content is not None:
            (tmp_path / EMA_FILE).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{EMA_FILE} cannot be read"):
            average.load(tmp_path)
