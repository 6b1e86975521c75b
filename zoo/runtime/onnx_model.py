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
from zoo.network.graph import INPUT, Graph, tensor_shapes
from zoo.runtime import onnx_format
from zoo.runtime.onnx_format import FLOAT, UINT8, Blank, Message

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
    if descriptor.license is not None:
        properties["license"] = descriptor.license
    return onnx_format.model(written, _OPSET, _IR_VERSION, "checkpoint-zoo", properties)


def _initializer(name: str, array: npt.NDArray[np.float32]) -> Message:
    return onnx_format.tensor(name, array.shape, array.astype("<f4").tobytes())


def _body(graph: Graph) -> list[Message]:
    """The nodes of each of our operations; one that has none, dropout, passes its input on."""
    written = []
    renamed = {graph.output: "logits"}
    for node in graph.nodes:
        inputs = [renamed.get(name, name) for name in node.inputs]
        onnx_nodes = node.op.onnx()
        if not onnx_nodes:
            renamed[node.name] = inputs[0]
        for one in onnx_nodes:
            reads = [*(inputs if one.reads_inputs else ()), *(f"{node.name}.{name}" for name in one.reads)]
            name = f"{node.name}.{one.output}" if one.output else node.name
            written.append(onnx_format.node(one.kind, reads, renamed.get(name, name), name, **one.attributes))
    return written
