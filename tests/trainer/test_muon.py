from __future__ import annotations

import io
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from trainer.loop.muon import MuonAdamW, all_orthogonalized, orthogonalized

SHAPES = [(8, 8, 1, 1), (8, 8, 1, 1), (12, 4, 1, 1), (4, 12, 1, 1)]


def parameters(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=random, requires_grad=True) for shape in shapes]


def optimizer_of(matrices: list[Tensor], others: list[Tensor], scale: float = 1.0) -> MuonAdamW:
    groups = [{"params": others, "weight_decay": 0.0}]
    return MuonAdamW(matrices, groups, scale=scale, momentum=0.9, weight_decay=0.1, lr=0.02, betas=(0.9, 0.99))


def steps(optimizer: torch.optim.Optimizer, tensors: list[Tensor], count: int, seed: int = 1) -> None:
    """The same gradients for the same seed."""
    random = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for tensor in tensors:
            tensor.grad = torch.randn(tensor.numel(), generator=random).view(tensor.shape)
        optimizer.step()


def test_matrices_move_as_with_torchs_muon() -> None:
    """Which takes two-dimensional parameters only, and computes in bfloat16: about 1 % of a step is its rounding."""
    mine = parameters(SHAPES)
    theirs = [tensor.detach().flatten(1).clone().requires_grad_() for tensor in mine]
    before = [tensor.detach().clone() for tensor in theirs]
    steps(optimizer_of(mine, []), mine, 5)
    steps(torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.9), theirs, 5)
    for own, wanted, start in zip(mine, theirs, before, strict=True):
        moved, wanted_move = own.detach().flatten(1) - start, wanted.detach() - start
        assert (moved - wanted_move).norm() < 0.03 * wanted_move.norm()


def test_everything_else_moves_as_with_adamw() -> None:
    mine, theirs = parameters([(4, 2, 3, 3), (4,)]), parameters([(4, 2, 3, 3), (4,)])
    steps(optimizer_of(parameters(SHAPES), mine), mine, 5)
    steps(torch.optim.AdamW(theirs, lr=0.02, betas=(0.9, 0.99), weight_decay=0.0), theirs, 5)
    for own, wanted in zip(mine, theirs, strict=True):
        assert torch.equal(own, wanted)


@pytest.mark.parametrize("shape", [(6, 6), (3, 9), (9, 3)])
def test_an_orthogonalized_matrix_keeps_its_singular_vectors(shape: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(2)
    matrices = torch.randn(3, *shape, generator=random)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    well_away_from_0 = values > 0.1 * values.max(dim=1, keepdim=True).values
    found = torch.diagonal(left.mT @ orthogonalized(matrices) @ right.mT, dim1=1, dim2=2)
    assert ((found > 0.6) & (found < 1.3))[well_away_from_0].all()


@pytest.mark.parametrize("together", [False, True])
def test_matrices_of_several_shapes_are_orthogonalized_as_each_by_itself(together: bool) -> None:
    matrices = [tensor.detach().flatten(1) for tensor in parameters([*SHAPES, (6, 9, 1, 1), (9, 6, 1, 1)])]
    for matrix, found in zip(matrices, all_orthogonalized(matrices, together=together), strict=True):
        torch.testing.assert_close(found, orthogonalized(matrix[None])[0], rtol=1e-4, atol=1e-5)


def test_a_saved_optimiser_goes_on_where_it_was() -> None:
    matrices, others = parameters(SHAPES), parameters([(5,)])
    optimizer = optimizer_of(matrices, others, scale=2.0)
    steps(optimizer, [*matrices, *others], 3)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    copies, other_copies = deepcopy(matrices), deepcopy(others)
    again = optimizer_of(copies, other_copies, scale=2.0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    steps(optimizer, [*matrices, *others], 3, seed=2)
    steps(again, [*copies, *other_copies], 3, seed=2)
    for one, other in zip([*matrices, *others], [*copies, *other_copies], strict=True):
        assert torch.equal(one, other)
