"""A checkpoint's model card: what a person should know before using it, as Markdown.

As Mitchell et al. proposed (arXiv 1810.03993), with the front matter that huggingface_hub reads. All of it comes from
the descriptor, so that a checkpoint has one card, wherever it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

from zoo.checkpoint.descriptor import Accuracy, Content, Descriptor
from zoo.choosing.budget import wilson_interval
from zoo.network.cost import num_macs, num_params, ram_bytes

_NUM_CONFUSED = 5


def model_card(descriptor: Descriptor, digest: str) -> str:
    """The card of the checkpoint with this digest.

    detail = zoo.show("best")
    print(model_card(detail.descriptor, detail.id))
    """
    name, classes = descriptor.name, descriptor.classes
    architecture = descriptor.architecture
    graph = architecture.graph()
    shape = f"{architecture.input_height}×{architecture.input_width}"
    color = {"rgb": "colour", "gray": "gray"}[descriptor.preprocessing.color]
    return "\n".join(
        [
            *_front_matter(descriptor),
            f"# {name}",
            "",
            f"An image classifier with {num_params(graph):,} parameters. It looks at {shape} pixels in {color}, and "
            f"tells {len(classes)} classes apart: {', '.join(map(_plain, classes))}.",
            "",
            *_section("Data", _data(descriptor)),
            *_section("Accuracy", _accuracy(descriptor)),
            *_section(
                "Cost",
                [
                    f"- {num_params(graph):,} parameters; {num_macs(graph):,} multiply-accumulates and about "
                    f"{ram_bytes(graph):,} bytes of memory for one image",
                    f"- trained for {descriptor.cost.epochs:,} epochs, {descriptor.cost.device_seconds:,.0f} s on "
                    f"{_plain(descriptor.cost.device)}, since the run began: {descriptor.cost.training_flops:.3g} FLOP",
                ],
            ),
            *_section("Lineage", _lineage(descriptor, digest)),
            *_section("Limits", _limits(descriptor)),
            *_section("Licence", [descriptor.license or "The file does not state one."]),
        ]
    )


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return [f"## {title}", *lines, ""]


def _front_matter(descriptor: Descriptor) -> list[str]:
    """Names are slugs and licences SPDX expressions: nothing in it needs quotes in YAML but the latter."""
    licence = [] if descriptor.license is None else [f'license: "{descriptor.license.lower()}"']
    family = descriptor.architecture.family
    tags = [f"- {tag}" for tag in ("image-classification", family)]
    return [
        "---",
        *licence,
        "pipeline_tag: image-classification",
        "library_name: checkpoint-zoo",
        "tags:",
        *tags,
        "---",
    ]


def _data(descriptor: Descriptor) -> list[str]:
    dataset = descriptor.dataset
    counts = (
        f"{dataset.num_train:,} images to train, {dataset.num_validation:,} to validate, {dataset.num_test:,} to test"
    )
    lines = [f"Data set `{dataset.name}`: {counts}."]
    if dataset.content is None:
        return [*lines, "Which images these are is not recorded."]
    hashes = [f"| {split} | `{getattr(dataset.content, split)}` |" for split in Content.model_fields]
    return [*lines, "", "| content | SHA-256 |", "|---|---|", *hashes]


def _accuracy(descriptor: Descriptor) -> list[str]:
    test, validation = descriptor.metrics.test, descriptor.metrics.validation
    rows = [_row("validation", validation), *([] if test is None else [_row("test", test)])]
    measured = test or validation
    split = "validation" if test is None else "test"
    each = [
        f"| {_plain(label)} | {'no images' if share is None else f'{share:.1%}'} |"
        for label, share in zip(descriptor.classes, measured.per_class, strict=True)
    ]
    return [
        "Top-1, as its own run measured it. Test images were looked at once, to report; growth and selection looked at "
        "validation images.",
        "",
        "| split | accuracy | 95 % interval (Wilson) | images |",
        "|---|---|---|---|",
        *rows,
        "",
        f"| class | accuracy ({split}) |",
        "|---|---|",
        *each,
        *_confusions(descriptor),
    ]


def _confusions(descriptor: Descriptor) -> list[str]:
    if descriptor.metrics.confusion is None:
        return []
    pairs = descriptor.confused(_NUM_CONFUSED) or ["none"]
    return ["", "Most often confused, test images:", "", *(f"- {_plain(pair)}" for pair in pairs)]


def _row(split: str, measured: Accuracy) -> str:
    low, high = wilson_interval(measured.accuracy, measured.n)
    return f"| {split} | {measured.accuracy:.2%} | {low:.2%} – {high:.2%} | {measured.n:,} |"


def _lineage(descriptor: Descriptor, digest: str) -> list[str]:
    lineage = descriptor.lineage
    annealed = f", then annealed for {lineage.anneal_epochs:,} epochs" if lineage.anneal_epochs else ""
    lines = [
        f"- checkpoint `{digest}`, made {descriptor.created_at:%Y-%m-%d} by version {_plain(lineage.code_version)}",
        f"- run `{lineage.run}`, seed {lineage.seed}: {lineage.num_expansions:,} expansions until epoch "
        f"{lineage.epoch:,}{annealed}",
        f"- parent: {'none' if lineage.parent is None else f'`{lineage.parent}`'}",
    ]
    if lineage.pruned_from is not None:
        lines.append(f"- pruned from `{lineage.pruned_from}`")
    if lineage.distilled_from is not None:
        lines.append(f"- distilled from `{lineage.distilled_from}`")
    if lineage.pretrained_teacher is not None:
        teacher = lineage.pretrained_teacher
        lines.append(f"- taught by `{_plain(teacher.name)}`, whose weights were `{teacher.weights}`")
    return lines


def _limits(descriptor: Descriptor) -> list[str]:
    height, width = descriptor.architecture.input_height, descriptor.architecture.input_width
    return [
        "- It answers with one of its classes whatever it is shown, also where none of them is in the picture.",
        f"- Images become {height}×{width} pixels: what is smaller than a pixel then cannot be seen.",
        "- The accuracy is that on images of the same origin; on others it may be far lower.",
        "- Scores are not calibrated: 0.9 does not mean right nine times in ten.",
        "- Nobody has tested it for fairness among people, or against images made to deceive it: not for decisions "
        "about people, or where an error does harm.",
    ]


def _plain(text: str) -> str:
    """Names come from folders: in Markdown they must stay text, and on one line."""
    escaped = "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in text)
    return " ".join(escaped.split())
