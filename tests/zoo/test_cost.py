from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from zoo.network.cost import activation_bytes, num_macs, num_params, ram_bytes, training_flops
from zoo.network.families import secnn
from zoo.network.families.family import Architecture
from zoo.network.graph import INPUT, GraphBuilder
from zoo.network.ops import Add, AveragePool2d, Conv2d, GlobalAveragePool, Linear
from zoo.runtime.module import GraphModule

pytestmark = pytest.mark.usefixtures("one_thread")


def counted_macs(module: GraphModule, image: Tensor) -> int:
    """Runs the network, and counts what each layer that multiplies weights did."""
    total = 0

    def count(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        multiplications_per_number = layer.weight[0].numel()
        total += output.numel() * multiplications_per_number

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    module.eval()(image)
    return total


@settings(max_examples=40)
@given(data=st.data())
def test_counts_agree_with_the_network_that_torch_runs(
    architectures: SearchStrategy[Architecture], data: st.DataObject
) -> None:
    graph = data.draw(architectures).graph()
    module = GraphModule(graph)
    assert num_params(graph) == sum(parameter.numel() for parameter in module.parameters())
    assert num_macs(graph) == counted_macs(module, torch.zeros(1, *graph.input_shape))


def test_macs_of_the_start_network_counted_by_hand() -> None:
    blocks = 32 * 32 * 16 * 3 * 9 + 16 * 16 * 16 * 16 * 9 + 8 * 8 * 16 * 16 * 9
    head = 4 * 4 * 10 * 32 + 160 * 20 + 20 * 10
    graph = secnn.start(input_shape=(3, 32, 32), num_classes=10).graph()
    assert num_macs(graph) == blocks + head


def test_training_costs_three_passes_of_two_operations_per_mac() -> None:
    assert training_flops(macs=1_000, num_images=50) == 300_000


def test_peak_memory_counted_by_hand() -> None:
    """A value is kept until its last reader has run."""
    builder = GraphBuilder((2, 4, 4))
    hidden = builder.add("wide", Conv2d(2, 6, kernel_size=3, bias=False, stride=2), INPUT)  # 6×2×2, beside the input
    small = builder.add("small", AveragePool2d(2), INPUT)  # 2×2×2, beside both
    narrow = builder.add("narrow", Conv2d(6, 2, kernel_size=1, bias=True), hidden)  # 2×2×2: the input is no longer kept
    value = builder.add("sum", Add(), narrow, small)
    builder.add("output", Linear(2, 3), builder.add("average", GlobalAveragePool(), value))
    graph = builder.build()
    assert activation_bytes(graph) == 4 * (2 * 16 + 6 * 4 + 2 * 4)
    weights = 6 * 2 * 9 + 2 * 6 + 2 + 3 * 2 + 3
    assert ram_bytes(graph) == activation_bytes(graph) + 4 * weights
