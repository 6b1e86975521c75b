from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binomtest

from zoo.choosing.budget import Budget, wilson_interval, z_score


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (80, "accuracy is a fraction: 0.8, not 80"),
        (99.5, "accuracy is a fraction: 0.995, not 99.5"),
        (1.01, "accuracy is a fraction: 0.0101, not 1.01"),
        (101, "accuracy is a fraction from 0 to 1, not 101"),
        (-0.1, "accuracy is a fraction from 0 to 1, not -0.1"),
        (float("nan"), "accuracy is a fraction from 0 to 1, not nan"),
    ],
)
def test_accuracy_is_a_fraction(given: float, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Budget(min_acc=given)


@pytest.mark.parametrize("fraction", [0, 0.8, 1])
def test_fractions_include_their_ends(fraction: float) -> None:
    assert Budget(min_acc=fraction).min_acc == fraction


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"max_params": -1}, "greater than or equal to 0"),
        ({"max_bytes": 2**63}, "less than or equal to 9223372036854775807"),
        ({"max_latency_ms": float("nan")}, "greater than or equal to 0"),
        ({"min_acc": 0.5, "confidence": 1}, "less than 1"),
        ({"max_parms": 5}, "Extra inputs are not permitted"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(bounds: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Budget(**bounds)  # type: ignore[arg-type]


def test_a_budget_reads_as_it_is_asked_for() -> None:
    assert str(Budget(min_acc=0.8, max_params=50_000)) == "min_acc=0.8, max_params=50000"
    assert str(Budget()) == ""


def test_the_data_set_alone_bounds_nothing() -> None:
    assert not Budget(dataset="cifar10").is_bounded()
    assert Budget(family="secnn", max_macs=0).bounds() == {"family", "max_macs"}


@given(
    n=st.integers(1, 20_000),
    share=st.floats(0, 1),
    confidence=st.sampled_from([0.5, 0.8, 0.95, 0.99]),
)
def test_wilson_interval_is_scipys(n: int, share: float, confidence: float) -> None:
    hits = round(share * n)
    wanted = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(hits / n, n, confidence) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_z_score_of_the_usual_confidence() -> None:
    assert z_score(0.95) == pytest.approx(1.959964, abs=1e-6)
    assert 8 < z_score(0.9999999999999999) < 9, "as near to 1 as a number can be"
