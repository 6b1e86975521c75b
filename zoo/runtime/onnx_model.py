"""Graph + weights -> ONNX: what the service runs and what devices download. No torch.

Input `images`: uint8 (batch, height, width, channels), decoded pixels. Normalisation is part of the model.
Outputs `logits` and `probabilities`: float32 (batch, classes). The descriptor is in the metadata, so that
this file too says everything about itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import numpy.typing as npt

from zoo.checkpoint.descriptor import Descriptor
from zoo.checkpoint.file import Checkpoint
from zoo.network import graph as ops
from zoo.network.graph import INPUT, Graph, Node, tensor_shapes
from zoo.runtime import onnx_format
from zoo.runtime.onnx_format import FLOAT, UINT8, Attribute, Blank, Message

# Opset 17 with IR 8 is read by every ONNX Runtime since 1.12 (2022), on devices too.
_OPSET = 17
_IR_VERSION = 8
_FLOAT_BYTES = 4


def build(checkpoint: Checkpoint) -> bytes:
    """Equal checkpoints give equal bytes."""
    tensors = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
    return _model(
        checkpoint.descriptor, {name: _initializer(name, tensor) for name, tensor in tensors.items()}
    ).to_bytes()


def size_bytes(descriptor: Descriptor) -> int:
    """The length of what `build` gives, which the weights themselves do not change."""
    shapes = tensor_shapes(descriptor.architecture.graph())
    blanks = {
        name: onnx_format.tensor(name, shape, Blank(_FLOAT_BYTES * prod(shape))) for name, shape in shapes.items()
    }
    return len(_model(descriptor, blanks))


def _model(descriptor: Descriptor, initializers: Mapping[str, Message]) -> Message:
    graph = descriptor.architecture.graph()
    channels, height, width = graph.input_shape
    mean = np.asarray(descriptor.preprocessing.mean, dtype=np.float32).reshape(1, channels, 1, 1)
    std = np.asarray(descriptor.preprocessing.std, dtype=np.float32).reshape(1, channels, 1, 1)
    constants = {"pixel_range": np.array([255], dtype=np.float32), "mean": mean, "std": std}
    nodes = [
        onnx_format.node("Transpose", ["images"], "channels_first", perm=[0, 3, 1, 2]),
        onnx_format.node("Cast", ["channels_first"], "pixels", to=FLOAT),
        onnx_format.node("Div", ["pixels", "pixel_range"], "unit"),
        onnx_format.node("Sub", ["unit", "mean"], "centered"),
        onnx_format.node("Div", ["centered", "std"], INPUT),
        *_body(graph),
        onnx_format.node("Softmax", ["logits"], "probabilities", axis=1),
    ]
    classes: list[int | str] = ["batch", descriptor.architecture.num_classes]
    written = onnx_format.graph(
        descriptor.name,
        nodes,
        [*initializers.values(), *(_initializer(name, array) for name, array in constants.items())],
        [onnx_format.value("images", UINT8, ["batch", height, width, channels])],
        [onnx_format.value(name, FLOAT, classes) for name in ("logits", "probabilities")],
    )
    properties = {"descriptor": descriptor.to_json()}
    return onnx_format.model(written, _OPSET, _IR_VERSION, "checkpoint-zoo", properties)


def _initializer(name: str, array: npt.NDArray[np.float32]) -> Message:
    return onnx_format.tensor(name, array.shape, array.astype("<f4").tobytes())


def _body(graph: Graph) -> list[Message]:
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
            nodes.append(onnx_format.node("Sigmoid", inputs, gate, gate))
            nodes.append(onnx_format.node("Mul", [*inputs, gate], output, node.name))
            continue
        nodes.append(_node(node, inputs, output))
    return nodes


def _node(node: Node, inputs: list[str], output: str) -> Message:
    def make(kind: str, *tensors: str, **attributes: Attribute) -> Message:
        names = [*inputs, *(f"{node.name}.{tensor}" for tensor in tensors)]
        return onnx_format.node(kind, names, output, node.name, **attributes)

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
