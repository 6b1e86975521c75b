from __future__ import annotations

import platform
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.config import RunConfig
from trainer.growth.expand import Exact, expand
from trainer.growth.scores.fisher import gradient_moments
from trainer.loop import optim
from trainer.loop.step import TrainingStep, has_bfloat16, prepare, prepared
from trainer.recipes.runs import paper
from zoo.checkpoint.descriptor import Preprocessing
from zoo.network.families import blueprint, secnn
from zoo.network.families.family import Architecture
from zoo.runtime.module import GraphModule, normalize

RGB = Preprocessing(color="rgb", mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
ADAM = replace(paper(), l1=0.0, learning_rate=1e-2, mixed_precision=False)
ADAMW = replace(ADAM, optimizer="adamw", weight_decay=0.02, beta2=0.99)


@pytest.fixture(params=["blueprint", "secnn"])
def module(request: pytest.FixtureRequest, random_module: Callable[[Architecture, int], GraphModule]) -> GraphModule:
    architecture: Architecture
    if request.param == "blueprint":
        architecture = blueprint.start(input_shape=(3, 8, 10), num_classes=4, channels=(6, 8), num_layers=(1, 2))
    else:
        architecture = secnn.start(
            input_shape=(3, 8, 10), num_classes=4, channels=6, num_blocks=2, conv_dropout=0.0, linear_dropout=0.0
        )
    return random_module(architecture, 0).train()


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 256, (16, 3, 8, 10), generator=random, dtype=torch.uint8),
            torch.randint(0, 4, (16,), generator=random),
        )
        for _ in range(count)
    ]


def step_of(module: GraphModule, config: RunConfig) -> TrainingStep:
    module = deepcopy(module)
    return TrainingStep(module, optim.make(module, config), config, RGB)


def weights(module: GraphModule) -> Tensor:
    return torch.cat([tensor.detach().flatten().float() for tensor in module.state_dict().values()])


# A bias in front of a batch norm has rounding for a gradient, which Adam makes a step of; L1 gives it a direction.
@pytest.mark.parametrize(
    ("module", "config"),
    [
        ("blueprint", ADAM),
        ("blueprint", ADAMW),
        ("blueprint", replace(ADAMW, l1=1e-3)),
        ("secnn", replace(ADAM, l1=1e-3)),
    ],
    indirect=["module"],
    ids=["adam", "adamw", "adamw and l1", "adam and l1"],
)
def test_a_step_is_what_one_would_write_by_hand(module: GraphModule, config: RunConfig) -> None:
    step = step_of(module, config)
    expected = deepcopy(module)
    kernels = [parameter for parameter in expected.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in expected.parameters() if parameter.ndim == 1]
    groups = [{"params": kernels, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
    optimizer: torch.optim.Optimizer
    match config.optimizer:
        case "adam":
            optimizer = torch.optim.Adam(expected.parameters(), lr=1e-2)
        case "adamw":
            optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99))
        case _:
            optimizer = torch.optim.SGD(groups, lr=1e-2, momentum=0.9, nesterov=True)
    for images, labels in batches(5):
        loss, correct = step(images, labels)
        logits = expected(normalize(images, RGB))
        cross_entropy = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        (cross_entropy + config.l1 * sum(parameter.abs().sum() for parameter in expected.parameters())).backward()
        optimizer.step()
        assert loss.item() == pytest.approx(cross_entropy.item(), rel=1e-4)
        assert correct.item() == (logits.argmax(1) == labels).sum().item()
        assert not loss.requires_grad
    torch.testing.assert_close(weights(step.module), weights(expected), rtol=1e-3, atol=1e-4)
    assert (weights(expected) - weights(module)).abs().max() > 0.01


def test_mixed_precision_stays_close_to_single(module: GraphModule) -> None:
    """bfloat16 has 8 bits of mantissa: losses within a few per cent over some steps. The weights stay float32."""
    single, mixed = (step_of(module, replace(ADAMW, mixed_precision=mixed)) for mixed in (False, True))
    for images, labels in batches(5):
        loss, wanted = mixed(images, labels)[0], single(images, labels)[0]
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(wanted.item(), rel=0.05)
    assert {parameter.dtype for parameter in mixed.module.parameters()} == {torch.float32}
    # Only where the machine has units for it is anything else computed at all.
    assert torch.equal(weights(single.module), weights(mixed.module)) is not has_bfloat16(torch.device("cpu"))


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="reads what Linux says of an x86"
)
def test_bfloat16_is_taken_where_the_cpu_has_units_for_it() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert has_bfloat16(torch.device("cpu")) is bool(flags & {"avx512_bf16", "amx_bf16"})


@pytest.mark.parametrize("config", [ADAM, ADAMW], ids=["adam", "adamw"])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_snapshot_puts_everything_back(module: GraphModule, config: RunConfig, steps_before: int) -> None:
    """Weights, running statistics and the optimiser: what follows is as if there had been no branch, bit for bit."""
    data = batches(steps_before + 4)
    step = step_of(module, config)
    undisturbed = step_of(module, config)
    for batch in data[:steps_before]:
        step(*batch)
        undisturbed(*batch)
    snapshot = step.snapshot()
    before = deepcopy(step.module.state_dict())
    state_before = deepcopy(step.optimizer.state_dict()["state"])
    for images, labels in data:
        step(images, (labels + 1) % 4)
    assert any(not torch.equal(before[name], tensor) for name, tensor in step.module.state_dict().items())
    step.restore(snapshot)

    after = step.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    state = step.optimizer.state_dict()["state"]
    if steps_before:
        assert state.keys() == state_before.keys()
        for key, tensors in state.items():
            assert all(torch.equal(tensor, state_before[key][name]) for name, tensor in tensors.items())
    for batch in data[steps_before:]:
        losses = [each(*batch)[0] for each in (step, undisturbed)]
        assert torch.equal(*losses)
    assert torch.equal(weights(step.module), weights(undisturbed.module))


def test_a_snapshot_can_be_restored_again(module: GraphModule) -> None:
    step = step_of(module, ADAMW)
    [first, second] = batches(2)
    step(*first)
    snapshot = step.snapshot()
    before = weights(step.module)
    for _ in range(2):
        step(*second)
        assert not torch.equal(weights(step.module), before)
        step.restore(snapshot)
        assert torch.equal(weights(step.module), before)


def test_a_machine_without_a_compiler_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, module: GraphModule
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    prepare(torch.device("cpu"), paper())
    assert "there is no C++ compiler" in caplog.text
    step = TrainingStep(module, optim.make(module, ADAM), ADAM, RGB, compiled=True)
    for images, labels in batches(1):
        assert step(images, labels)[0].isfinite()


def test_a_run_leaves_torch_as_it_was() -> None:
    """It may be one call in a program with models of its own."""

    def settings() -> tuple[int, bool, bool]:
        fills = torch.utils.deterministic.fill_uninitialized_memory
        return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), fills

    before = settings()
    with pytest.raises(KeyboardInterrupt), prepared(torch.device("cpu"), replace(paper(), cpu_threads=3)):
        assert settings() == (3, True, False)
        raise KeyboardInterrupt
    assert settings() == before


def test_l1_pulls_every_weight_but_is_no_part_of_the_loss(module: GraphModule) -> None:
    [batch] = batches(1)
    plain, pulled = (step_of(module, replace(ADAM, l1=l1)) for l1 in (0.0, 10.0))
    assert plain(*batch)[0].item() == pulled(*batch)[0].item()
    # So strong a term decides every weight's first step: Adam's is one learning rate towards zero.
    for name, parameter in pulled.module.named_parameters():
        old = module.get_parameter(name).detach()
        assert torch.allclose(parameter.detach(), old - 1e-2 * old.sign(), atol=1e-4), name


def test_after_an_expansion_each_weight_moves_by_its_own_moments(
    random_module: Callable[[Architecture, int], GraphModule],
) -> None:
    """As torch's plain optimisers would move it; fused ones read weights and moments in the order of their memory."""
    architecture = blueprint.start(input_shape=(3, 8, 10), num_classes=4, channels=(6, 8), num_layers=(1, 2))
    step = step_of(random_module(architecture, 0).train(), ADAMW)
    data = batches(6)
    for batch in data[:5]:
        step(*batch)
    graph = architecture.deepened(0).widened(1, 2).graph()
    images = normalize(data[0][0], RGB)
    exact = Exact()
    new = expand(step.module, graph, exact, images, torch.Generator().manual_seed(2))
    moments = gradient_moments(new, images, data[0][1])
    carried = optim.carried(step.optimizer, step.module, new, moments, ADAMW)

    expected = GraphModule(graph)
    expected.load_state_dict(new.state_dict())
    plain = torch.optim.AdamW(expected.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0)
    for name, parameter in expected.named_parameters():
        state = carried.state[new.get_parameter(name)]
        plain.state[parameter] = {key: tensor.clone() for key, tensor in state.items()}
    for group in carried.param_groups:
        group["weight_decay"] = 0.0
    images, labels = data[5]
    F.cross_entropy(expected.train()(normalize(images, RGB)), labels).backward()
    plain.step()
    TrainingStep(new.train(), carried, ADAMW, RGB)(images, labels)
    for name, parameter in new.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), rtol=1e-4, atol=1e-5, msg=name)
