"""Muon for kernels of one pixel, which are matrices, and AdamW for everything else, as one optimiser.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) moves a matrix along the orthogonal matrix that is
nearest to its momentum: every direction in which the loss still falls is followed at the same speed, not the strongest
ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# The polynomial a·x + b·x³ + c·x⁵ that takes singular values from (0, 1] to near 1 in few steps (from the page above).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_NUM_ITERATIONS = 5
_EPS = 1e-7


class MuonAdamW(torch.optim.AdamW):
    """The groups of `param_groups` with `orthogonal` true are Muon's, the others AdamW's; all share a learning rate.

    A parameter's rows are its first dimension, its columns all others together. Muon's steps are `scale` times the
    learning rate.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        others: list[dict[str, Any]],
        *,
        scale: float,
        momentum: float,
        weight_decay: float,
        **adamw: Any,
    ) -> None:
        own = {"params": list(matrices), "orthogonal": True, "scale": scale, "momentum": momentum}
        groups = [own | {"weight_decay": weight_decay}, *({**group, "orthogonal": False} for group in others)]
        super().__init__([group for group in groups if group["params"]], **adamw)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        loss = super().step(closure)
        self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                self._step_orthogonally(group)
        return loss

    def _step_orthogonally(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                # AdamW's loading of a saved state looks for a step in all of it.
                state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        # Nesterov's: the momentum that the next step would have with this gradient again.
        directions = torch._foreach_lerp(gradients, momenta, group["momentum"])
        updates = []
        # Launching the kernels of a batch takes a GPU longer than the zeros that fill up small matrices.
        together = parameters[0].is_cuda
        for matrix in all_orthogonalized([direction.flatten(1) for direction in directions], together=together):
            rows, columns = matrix.shape
            updates.append(matrix * max(1.0, rows / columns) ** 0.5)
        torch._foreach_mul_(updates, group["lr"] * group["scale"])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_sub_(parameters, [u.view(p.shape) for u, p in zip(updates, parameters, strict=True)])


def all_orthogonalized(matrices: Sequence[Float[Tensor, "_ _"]], *, together: bool) -> list[Float[Tensor, "_ _"]]:
    """`orthogonalized` of each: in a batch for each shape, or `together`, filled up with zeros, which stay 0."""
    wide = [matrix if len(matrix) <= matrix.shape[1] else matrix.mT for matrix in matrices]
    batches: dict[torch.Size | None, list[int]] = {}
    for index, matrix in enumerate(wide):
        batches.setdefault(None if together else matrix.shape, []).append(index)
    results: list[Tensor] = list(wide)
    for indices in batches.values():
        rows, columns = (max(wide[index].shape[axis] for index in indices) for axis in (0, 1))
        batch = wide[0].new_zeros((len(indices), rows, columns))
        for place, index in zip(batch, indices, strict=True):
            place[: len(wide[index]), : wide[index].shape[1]] = wide[index]
        for result, index in zip(orthogonalized(batch), indices, strict=True):
            results[index] = result[: len(wide[index]), : wide[index].shape[1]]
    return [
        result if matrix.shape == result.shape else result.mT for matrix, result in zip(matrices, results, strict=True)
    ]


def orthogonalized(matrices: Float[Tensor, "count rows columns"]) -> Float[Tensor, "count rows columns"]:
    """About U Vᵀ of each matrix U Σ Vᵀ: singular values that are not near 0 come out between 0.7 and 1.2."""
    wide = matrices.shape[1] <= matrices.shape[2]
    result = matrices if wide else matrices.mT
    result = result / (torch.linalg.matrix_norm(result, keepdim=True) + _EPS)
    for _ in range(_NUM_ITERATIONS):
        gram = result @ result.mT
        result = torch.baddbmm(result, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), result, beta=_A)
    return result if wide else result.mT
