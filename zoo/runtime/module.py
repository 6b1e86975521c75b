"""Graph -> torch module: what the trainer trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from zoo.catalog.views import Prediction
from zoo.checkpoint.descriptor import Preprocessing
from zoo.checkpoint.file import Checkpoint, Tensors
from zoo.errors import ImageError
from zoo.images.inputs import Images
from zoo.network.graph import INPUT, Graph, output_shapes, tensor_shapes
from zoo.runtime.classifier import Classifier, Pixels, pixel_batches
from zoo.runtime.torch_ops import LAYERS


class GraphModule(nn.Module):
    """A graph as a torch module, to be trained. Parameters are named as in the graph and in checkpoints.

    logits = GraphModule(architecture.graph())(images)  # (batch, channels, height, width) -> (batch, classes)
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        shapes = output_shapes(graph)
        self._layers: list[nn.Module] = []
        for node in graph.nodes:
            layer = LAYERS[type(node.op)](node.op, len(shapes[node.inputs[0]]))
            self._layers.append(layer)
            self._attach(node.name, layer)

    def _attach(self, name: str, layer: nn.Module) -> None:
        """A node named "a.b.c" becomes attribute c of b of a; the containers on the way are made."""
        *path, last = name.split(".")
        parent: nn.Module = self
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, layer)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """`images` are normalised; see `normalize`."""
        values = {INPUT: images}
        for node, layer in zip(self.graph.nodes, self._layers, strict=True):
            values[node.name] = layer(*(values[name] for name in node.inputs))
        return values[self.graph.output]

    def tensors(self) -> Tensors:
        """Weights and running statistics as a checkpoint holds them: a copy, on the CPU."""
        state = self.state_dict()
        return {
            name: state[name].detach().to("cpu", torch.float32).numpy().copy() for name in tensor_shapes(self.graph)
        }

    def load_tensors(self, tensors: Tensors) -> None:
        """Names and shapes must be the graph's (as `checkpoint.load` has checked)."""
        state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
        result = self.load_state_dict(state, strict=False)
        # Torch counts batches per batch norm; with a fixed momentum the count has no effect, so none is stored.
        assert all(name.endswith("num_batches_tracked") for name in result.missing_keys), result
        assert not result.unexpected_keys, result


def normalize(
    images: UInt8[Tensor, "batch channels height width"], preprocessing: Preprocessing
) -> Float[Tensor, "batch channels height width"]:
    """Pixels to the network's input: (pixel / 255 - mean) / std per channel."""
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, -1, 1, 1)
    return (images.float() / 255 - mean) / std


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode within; its mode is left as it was."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def module_of(checkpoint: Checkpoint) -> GraphModule:
    """The checkpoint's network, in eval mode."""
    module = GraphModule(checkpoint.descriptor.architecture.graph())
    module.load_tensors(checkpoint.tensors)
    return module.eval()


class TorchClassifier(Classifier, nn.Module):
    """An ordinary module, in eval mode: to move, tune or take apart."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.descriptor = checkpoint.descriptor
        self.network = module_of(checkpoint)
        self.eval()

    def forward(self, images: Images | UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits. Raises ImageError."""
        if not isinstance(images, Tensor):
            batches = map(torch.from_numpy, pixel_batches(images, self.descriptor))
            return torch.cat([self._logits(pixels.permute(0, 3, 1, 2)) for pixels in batches])
        expected = self.network.graph.input_shape
        if images.dtype != torch.uint8 or images.shape[1:] != expected:
            raise ImageError(
                f"{self.descriptor.name} takes tensors of uint8 (batch, {', '.join(map(str, expected))}), not "
                f"{images.dtype} {tuple(images.shape)}"
            )
        return self._logits(images)

    def _logits(self, pixels: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        device = next(self.parameters()).device
        logits: Tensor = self.network(normalize(pixels.to(device), self.descriptor.preprocessing))
        return logits

    @torch.inference_mode()
    def _best(self, pixels: Pixels, top_k: int) -> list[list[Prediction]]:
        classes = self.descriptor.classes
        best = self(pixels).softmax(1).topk(min(top_k, len(classes)))
        return [
            [Prediction(label=classes[index], score=score, index=index) for score, index in zip(*row, strict=True)]
            for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
