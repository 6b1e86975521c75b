"""A name is not an identity: checkpoints of other images under one data set's name are kept apart by a label.

The images first seen keep the name; others are called `<name>-<first digits of their content>`. Which images a
checkpoint was tested on, its descriptor says by content (`Dataset.content`). Where it does not, classes, counts and the
mean and standard deviation of the training pixels tell other images, as far as they can.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from zoo.checkpoint.descriptor import Descriptor


def image_set(descriptor: Descriptor) -> str:
    """What is known of a checkpoint's images, as one line of JSON: equal for equal images of one run or of several."""
    dataset, architecture = descriptor.dataset, descriptor.architecture
    facts = {
        "name": dataset.name,
        "classes": hashlib.sha256(json.dumps(descriptor.classes).encode()).hexdigest()[:16],
        "shape": [architecture.input_channels, architecture.input_height, architecture.input_width],
        "train": [dataset.num_train, dataset.num_validation],
        "test": dataset.num_test,
        "pixels": [*descriptor.preprocessing.mean, *descriptor.preprocessing.std],
        "content": dataset.content.test if dataset.content else None,
    }
    return json.dumps(facts, separators=(",", ":"))


def labels(first_seen: Mapping[str, str]) -> dict[str, str]:
    """By image set (`image_set`), of which each was first seen at a time that sorts as text does, its label."""
    groups: dict[str, list[list[str]]] = {}
    for one in sorted(first_seen, key=lambda each: (first_seen[each], each)):
        named = groups.setdefault(json.loads(one)["name"], [])
        fitting = next((group for group in named if all(may_be_the_same(one, other) for other in group)), None)
        if fitting is None:
            named.append([one])
        else:
            fitting.append(one)
    found = {}
    for name, named in groups.items():
        for index, group in enumerate(named):
            label = name if index == 0 else f"{name[:55]}-{_digits(group[0])}"
            found.update(dict.fromkeys(group, label))
    return found


def may_be_the_same(one: str, other: str) -> bool:
    """Whether test accuracies compare, as far as is known."""
    a, b = json.loads(one), json.loads(other)
    if (a["classes"], a["test"]) != (b["classes"], b["test"]):
        return False
    if a["shape"] != b["shape"]:  # the same photos, perhaps, at another size
        return True
    if a["content"] and b["content"]:
        return bool(a["content"] == b["content"])
    return bool(a["train"] != b["train"] or a["pixels"] == b["pixels"])


def _digits(one: str) -> str:
    return str(json.loads(one)["content"] or hashlib.sha256(one.encode()).hexdigest())[:8]
