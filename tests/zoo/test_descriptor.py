from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import ValidationError

from zoo.checkpoint.descriptor import Descriptor, ExpansionStep, parse
from zoo.checkpoint.file import Checkpoint
from zoo.errors import DescriptorError
from zoo.network.families.family import Architecture

Json = dict[str, Any]


@pytest.fixture
def description(example: Checkpoint) -> Json:
    """A valid descriptor, to be spoilt."""
    return json.loads(example.descriptor.to_json())


def spoilt(description: Json, place: str, value: object) -> str:
    """The JSON with another value at a place like "metrics.test.n"."""
    *path, last = place.split(".")
    target: Any = description
    for part in path:
        target = target[int(part) if part.isdigit() else part]
    target[int(last) if last.isdigit() else last] = value
    return json.dumps(description)


def objects(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all JSON objects in the value, itself included."""
    if isinstance(value, dict):
        yield path
        for key, item in value.items():
            yield from objects(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from objects(item, (*path, str(index)))


STEPS = st.builds(
    ExpansionStep,
    epoch=st.integers(0, 300),
    kind=st.sampled_from(["deepen", "widen"]),
    block=st.integers(0, 2),
    layer_kind=st.sampled_from([None, "conv", "residual"]),
    channels_added=st.integers(0, 8),
    params_before=st.integers(0, 10**7),
    params_after=st.integers(0, 10**7),
    score=st.floats(allow_nan=False, allow_infinity=False),
    threshold=st.floats(allow_nan=False, allow_infinity=False),
    exact=st.booleans(),
)


@settings(max_examples=50)
@given(
    data=st.data(),
    steps=st.lists(STEPS, max_size=3).map(tuple),
    test=st.none() | st.floats(0, 1),
    parent=st.none() | st.just("0123456789abcdef" * 4),
    created_at=st.datetimes(timezones=st.just(UTC)),
)
def test_json_and_back_is_the_same_descriptor(
    architectures: SearchStrategy[Architecture],
    make_checkpoint: Callable[..., Checkpoint],
    data: st.DataObject,
    steps: tuple[ExpansionStep, ...],
    test: float | None,
    parent: str | None,
    created_at: datetime,
) -> None:
    architecture = data.draw(architectures)
    descriptor = make_checkpoint(architecture, accuracy=test, parent=parent, created_at=created_at).descriptor
    lineage = descriptor.lineage.model_copy(update={"num_expansions": len(steps), "expansions": steps})
    descriptor = descriptor.model_copy(update={"lineage": lineage})
    assert parse(descriptor.to_json()) == descriptor
    assert parse(descriptor.to_json()).to_json() == descriptor.to_json()


def test_unknown_keys_are_refused_wherever_they_stand(description: Json) -> None:
    places = list(objects(description))
    assert len(places) > 10
    for place in places:
        text = spoilt(json.loads(json.dumps(description)), ".".join((*place, "colour")), 1)
        named = r"\.".join((*place, "colour"))
        with pytest.raises(DescriptorError, match=f"^{named}: Extra inputs are not permitted"):
            parse(text)


def test_every_key_but_three_must_be_there(description: Json) -> None:
    left_out = []
    for place in objects(description):
        if place[:2] == ("lineage", "expansions"):
            continue
        target = description
        for part in place:
            target = target[int(part) if part.isdigit() else part]  # type: ignore[index]
        for key in list(target):
            value = target.pop(key)
            try:
                parse(json.dumps(description))
                left_out.append(".".join((*place, key)))
            except DescriptorError as error:
                assert key in str(error)
            target[key] = value
    assert left_out == ["preprocessing.resize", "lineage.anneal_epochs", "lineage.distilled_from"]


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(description: Json, version: object) -> None:
    with pytest.raises(DescriptorError, match=f"format_version is {version!r}, this version reads 1"):
        parse(spoilt(description, "format_version", version))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("preprocessing.color", "rgb", "rgb images have 3 channels, the input has 1"),
        ("preprocessing.mean", [0.5, 0.5], "mean needs one number per channel, 1"),
        ("preprocessing.std", [], "std needs one number per channel, 1"),
        ("classes", ["a", "b"], "2 classes named, the network has 3"),
        ("classes", ["a", "b", "a"], "class names repeat"),
        ("metrics.test.per_class", [0.5], "per_class needs one entry per class, 3"),
        ("metrics.validation.per_class", [], "per_class needs one entry per class, 3"),
        ("lineage.num_expansions", 2, "lineage: Value error, num_expansions is 2, 1 are listed"),
    ],
)
def test_parts_that_disagree_are_refused(description: Json, place: str, value: object, message: str) -> None:
    with pytest.raises(DescriptorError, match=message):
        parse(spoilt(description, place, value))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("metrics.test.accuracy", 75.0, "metrics.test.accuracy: Input should be less than or equal to 1"),
        ("metrics.test.n", 0, "metrics.test.n: Input should be greater than or equal to 1"),
        ("metrics.test.n", 10**20, "metrics.test.n: Input should be less than or equal to 9223372036854775807"),
        ("preprocessing.std", [0.0], "preprocessing.std.0: Input should be greater than 0"),
        ("preprocessing.mean", [float("nan")], "preprocessing.mean.0: Input should be a finite number"),
        ("cost.device_seconds", float("inf"), "cost.device_seconds: Input should be a finite number"),
        ("lineage.run", "no/slash", "lineage.run: String should match pattern"),
        ("lineage.parent", "ABC", "lineage.parent: String should match pattern"),
        ("lineage.seed", "3", "lineage.seed: Input should be a valid integer"),
        ("dataset.name", "", "dataset.name: String should match pattern"),
        ("architecture.family", "resnet", "architecture: no family is named 'resnet', known are: alexnet, blueprint, "),
        ("architecture.blocks.0.channels", 0, "architecture.blocks.0.channels: Input should be greater than"),
        ("architecture.input_height", 3, "blocks.1.pool expects at least 2×2 pixels"),
        ("created_at", "2026-11-21T02:00:00+01:00", "created_at must be in UTC, like 2026-11-21T02:00:00Z"),
        ("created_at", "2026-11-21T02:00:00", "created_at must be in UTC"),
        ("created_at", 1_790_000_000, "created_at: Input should be a valid datetime"),
    ],
)
def test_values_out_of_range_are_refused(description: Json, place: str, value: object, message: str) -> None:
    with pytest.raises(DescriptorError, match=message):
        parse(spoilt(description, place, value))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", b"\xff\xfe", '{"format_version": 1}'])
def test_what_is_no_descriptor_is_refused(text: str | bytes) -> None:
    with pytest.raises(DescriptorError):
        parse(text)


def test_a_local_time_is_refused_when_made(make_checkpoint: Callable[..., Checkpoint]) -> None:
    with pytest.raises(ValidationError, match="created_at must be in UTC"):
        make_checkpoint(created_at=datetime(2026, 11, 21, tzinfo=timezone(timedelta(hours=1))))


def test_a_descriptor_cannot_be_changed(make_checkpoint: Callable[..., Checkpoint]) -> None:
    descriptor = make_checkpoint().descriptor
    with pytest.raises(ValidationError, match="Instance is frozen"):
        descriptor.classes = ("a", "b", "c")
    with pytest.raises(ValidationError, match="Instance is frozen"):
        descriptor.lineage.epoch = 5


def test_the_name_says_data_set_run_seed_and_size(make_checkpoint: Callable[..., Checkpoint]) -> None:
    descriptor: Descriptor = make_checkpoint(dataset="digits", run="paper", seed=7).descriptor
    assert descriptor.name == "digits-paper-s7-164"
