"""A name is not an identity: checkpoints of other images under one data set's name are kept apart by a label.

The images that come first have the name; others are called `<name>-<first digits of their content>`, and whoever has a
label keeps it: when a file was made is for the file to claim, and must not rename what is served. Which images a
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


def name_of(one: str) -> str:
    """The data set's name in the descriptors of these checkpoints."""
    return str(json.loads(one)["name"])


def extended(labels: Mapping[str, str], first_seen: Mapping[str, str]) -> dict[str, str]:
    """`labels` by image set (`image_set`), and those of the image sets that have none yet.

    Each was first seen at a time that sorts as text does. The first of a name is called by it, others by name and
    digits, and those that may be the same images alike.
    """
    found = dict(labels)
    for one in sorted(first_seen.keys() - labels.keys(), key=lambda each: (first_seen[each], each)):
        name = name_of(one)
        groups: dict[str, list[str]] = {}
        for other, label in found.items():
            if name_of(other) == name:
                groups.setdefault(label, []).append(other)
        fitting = (label for label, group in groups.items() if all(may_be_the_same(one, other) for other in group))
        digits = str(json.loads(one)["content"] or hashlib.sha256(one.encode()).hexdigest())[:8]
        new = name if name not in found.values() else f"{name[:55]}-{digits}"
        found[one] = next(fitting, new)
    return found


def may_be_the_same(one: str, other: str) -> bool:
    """Whether test accuracies are comparable: nothing says that the images differ."""
    a, b = json.loads(one), json.loads(other)
    if (a["classes"], a["test"]) != (b["classes"], b["test"]):
        return False
    if a["shape"] != b["shape"]:  # the same photos, perhaps, at another size
        return True
    if a["content"] and b["content"]:
        return bool(a["content"] == b["content"])
    return bool(a["train"] != b["train"] or a["pixels"] == b["pixels"])
