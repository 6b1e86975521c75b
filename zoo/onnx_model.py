"""Graph + weights -> ONNX: what the service runs and what devices download. No torch.

Input `images`: uint8 (batch, height, width, channels), decoded pixels. Normalisation is part of the model.
Outputs `logits` and `probabilities`: float32 (batch, classes). The descriptor is in the metadata, so that
this file too says everything about itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zoo import graph as ops
from zoo.checkpoint import Checkpoint
from zoo.graph import INPUT, Graph, Node

# Opset 17 with IR 8 is read by every ONNX Runtime since 1.12 (2022), on devices too.
_OPSET = 17
_IR_VERSION = 8


def build(checkpoint: Checkpoint) -> bytes:
    """Equal checkpoints give equal bytes."""
    descriptor = checkpoint.descriptor
    graph = descriptor.architecture.graph()
    channels, height, width = graph.input_shape
    initializers = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
    mean = np.asarray(descriptor.preprocessing.mean, dtype=np.float32).reshape(1, channels, 1, 1)
    std = np.asarray(descriptor.preprocessing.std, dtype=np.float32).reshape(1, channels, 1, 1)
    initializers |= {"pixel_range": np.array([255], dtype=np.float32), "mean": mean, "std": std}
    nodes = [
        helper.make_node("Transpose", ["images"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["channels_first"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "pixel_range"], ["unit"]),
        helper.make_node("Sub", ["unit", "mean"], ["centered"]),
        helper.make_node("Div", ["centered", "std"], [INPUT]),
        *_body(graph),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    classes: list[str | int | None] = ["batch", descriptor.architecture.num_classes]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            descriptor.name,
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", height, width, channels])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, classes) for name in ("logits", "probabilities")],
            [numpy_helper.from_array(array, name) for name, array in initializers.items()],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="checkpoint-zoo",
    )
    helper.set_model_props(model, {"descriptor": descriptor.to_json()})
    return model.SerializeToString(deterministic=True)


def _body(graph: Graph) -> list[onnx.NodeProto]:
    """One ONNX node for each of ours, but for dropout, which does nothing here, and SiLU, which takes two."""
    nodes = []
    renamed = {graph.output: "logits"}
    for node in graph.nodes:
        inputs = [renamed.get(name, name) for name in node.inputs]
        if isinstance(node.op, ops.Dropout):
            renamed[node.name] = inputs[0]
            continue
        output = renamed.setdefault(node.name, node.name)
        if isinstance(node.op, ops.SiLU):
            gate = f"{node.name}.gate"
            nodes.append(helper.make_node("Sigmoid", inputs, [gate], name=gate))
            nodes.append(helper.make_node("Mul", [*inputs, gate], [output], name=node.name))
            continue
        nodes.append(_node(node, inputs, output))
    return nodes


def _node(node: Node, inputs: list[str], output: str) -> onnx.NodeProto:
    def make(kind: str, *tensors: str, **attributes: Any) -> onnx.NodeProto:
        names = [*inputs, *(f"{node.name}.{tensor}" for tensor in tensors)]
        return helper.make_node(kind, names, [output], name=node.name, **attributes)

    match node.op:
        case ops.Conv2d(kernel_size=size, bias=bias, groups=groups):
            tensors = ("weight", "bias") if bias else ("weight",)
            return make("Conv", *tensors, kernel_shape=[size, size], pads=[size // 2] * 4, group=groups)
        case ops.BatchNorm(eps=eps):
            return make("BatchNormalization", "weight", "bias", "running_mean", "running_var", epsilon=eps)
        case ops.LeakyReLU(negative_slope=slope):
            return make("LeakyRelu", alpha=slope)
        case ops.MaxPool2d(kernel_size=size):
            return make("MaxPool", kernel_shape=[size, size], strides=[size, size])
        case ops.GlobalAveragePool():
            return make("ReduceMean", axes=[2, 3], keepdims=0)
        case ops.Flatten():
            return make("Flatten")
        case ops.Linear():
            return make("Gemm", "weight", "bias", transB=1)
        case ops.Concat():
            return make("Concat", axis=1)
        case ops.Add():
            return make("Add")
        case ops.Dropout() | ops.SiLU():
            raise AssertionError(f"{node.op} has no one ONNX node")
