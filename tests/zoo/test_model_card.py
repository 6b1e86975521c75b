"""What a person reads before using a checkpoint."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from zoo.catalog.model_card import model_card
from zoo.checkpoint import descriptor as descriptors
from zoo.checkpoint.descriptor import Accuracy, Content, Metrics, PretrainedTeacher
from zoo.checkpoint.file import Checkpoint, digest_of, encode
from zoo.errors import DescriptorError
from zoo.runtime import onnx_model

DIGEST = "d" * 64


def test_it_says_all_that_the_descriptor_knows(example: Checkpoint) -> None:
    descriptor = example.descriptor
    hashes = {split: digit * 64 for split, digit in zip(Content.model_fields, "1234", strict=True)}
    shares = tuple(index / 16 for index in range(len(descriptor.classes)))
    measured = Accuracy(accuracy=0.8, n=1000, per_class=shares)
    teacher = PretrainedTeacher(name="resnet_from_elsewhere", weights="e" * 64)
    taught = {"distilled_from": "f" * 64, "pretrained_teacher": teacher}
    full = descriptor.model_copy(
        update={
            "dataset": descriptor.dataset.model_copy(update={"content": Content(**hashes)}),
            "metrics": Metrics(validation=measured, test=measured),
            "lineage": descriptor.lineage.model_copy(update=taught),
            "license": "Apache-2.0",
        }
    )
    card = model_card(full, DIGEST)
    wanted = [DIGEST, "f" * 64, "e" * 64, *hashes.values(), "resnet\\_from\\_elsewhere", descriptor.lineage.run]
    # Wilson's interval of 800 in 1,000.
    wanted += ["| test | 80.00% | 77.41% – 82.36% | 1,000 |", 'license: "apache-2.0"', "## Licence\nApache-2.0"]
    wanted += [f"| {name} | {share:.1%} |" for name, share in zip(descriptor.classes, shares, strict=True)]
    assert [text for text in wanted if text not in card] == []


def test_what_was_taken_for_what_is_told_worst_first(example: Checkpoint) -> None:
    descriptor = example.descriptor
    measured = Accuracy(accuracy=0.75, n=100, per_class=(1.0, 0.6, 0.65))
    metrics = Metrics(validation=measured, test=measured, confusion=((30, 0, 0), (12, 23, 1), (10, 2, 22)))
    card = model_card(descriptor.model_copy(update={"metrics": metrics, "classes": ("fox", "cat", "a|b")}), DIGEST)
    pairs = [line for line in card.splitlines() if " taken for " in line]
    wanted = ["cat taken for fox: 12 of 36", "a\\|b taken for fox: 10 of 34", "a\\|b taken for cat: 2 of 34"]
    assert pairs == [f"- {pair}" for pair in [*wanted, "cat taken for a\\|b: 1 of 36"]]
    perfect = Metrics(validation=measured, test=measured.model_copy(update={"accuracy": 1.0}), confusion=((100,),))
    assert "Most often confused, test images:\n\n- none" in model_card(
        descriptor.model_copy(update={"metrics": perfect}), DIGEST
    )


def test_what_is_not_known_is_said_to_be_so(example: Checkpoint) -> None:
    descriptor = example.descriptor
    metrics = Metrics(validation=descriptor.metrics.validation, test=None)
    dataset = descriptor.dataset.model_copy(update={"content": None})
    card = model_card(descriptor.model_copy(update={"metrics": metrics, "dataset": dataset}), DIGEST)
    assert "Which images these are is not recorded." in card
    assert "| test |" not in card
    assert "The file does not state one." in card
    assert "license:" not in card


def test_names_stay_text(example: Checkpoint) -> None:
    """They are names of folders, and published files are anybody's."""
    names = ("<script>", "[link](javascript:x)", "a|b\nc")
    card = model_card(example.descriptor.model_copy(update={"classes": names}), DIGEST)
    assert "<script>" not in card
    for escaped in (r"\[link\](javascript:x)", r"a\|b c"):
        assert escaped in card


def test_a_licence_is_kept_in_both_formats(example: Checkpoint) -> None:
    before = encode(example)
    licensed = Checkpoint(example.descriptor.model_copy(update={"license": "Apache-2.0"}), example.tensors)
    assert b'"license"' not in before
    assert descriptors.parse(licensed.descriptor.to_json()).license == "Apache-2.0"
    model = onnx.load_from_string(onnx_model.build(licensed))
    assert {entry.key: entry.value for entry in model.metadata_props}["license"] == "Apache-2.0"
    with pytest.raises(DescriptorError, match="license"):
        descriptors.parse(licensed.descriptor.to_json().replace("Apache-2.0", "<b>mine</b>"))


def test_the_command_prints_it(
    put: Callable[..., str], command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    digest = put(tmp_path)
    done = command("zoo", "card", digest[:12], "--zoo", tmp_path)
    assert done.returncode == 0, done.stderr
    [file] = tmp_path.glob("checkpoints/*.safetensors")
    assert digest_of(file.read_bytes()) == digest
    assert f"- checkpoint `{digest}`" in done.stdout
