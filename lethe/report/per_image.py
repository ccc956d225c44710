"""The predictions of each model for each image, as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lethe.evaluation import ModelOutputs, Outputs, names_in

if TYPE_CHECKING:
    import pyarrow as pa

MIA, MIA_SOURCE = "mia", "mia_confidence"  # the attack whose number mia is
CATEGORIES = ("model", "set", "attack")
MEMBER, NON_MEMBER, TARGET = "member", "non-member", "target"


def per_image(
    outputs: Mapping[str, ModelOutputs],
    indexes: Mapping[str, Tensor],
    about: Mapping[str, object] | None = None,
) -> pa.Table:
    """Return a row for each model and image, in the order of the sets.

    model, set   "unlearned", "initial", ..., as in `outputs`; "forget", "retain", "test", "validation"
    index        of the image in the original training or test set
    label, predicted
    p_y, margin, loss   probability of the true class, log(p_y / (1 - p_y)) and -log p_y in nats, float64
    logits       of all classes, float32
    attack       role of the image in the attacks' first draw: "member", "non-member", "target", or null
    member_score score of a forget image by mia's attack, positive for member; member_score_<attack>: by the
                 others. null for other images, and if an attack was not run

    indexes: by set, (N,) each. about: metadata of the file, as JSON under "lethe".
    """
    import pyarrow as pa

    parts = []
    for model, own in outputs.items():
        parts += [
            _of_set(model, name, own, images, indexes[name])
            for name, images in own.sets.items()
            if len(images)
        ]
    table = pa.concat_tables(parts)
    for name in CATEGORIES:
        table = table.set_column(table.column_names.index(name), name, table[name].dictionary_encode())
    return table.replace_schema_metadata({"lethe": json.dumps(dict(about or {}), sort_keys=True)})


def write_per_image(table: pa.Table, path: Path) -> None:
    """As Parquet, compressed."""
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd", use_dictionary=[*CATEGORIES, "label", "predicted"])


def _of_set(model: str, name: str, own: ModelOutputs, outputs: Outputs, indexes: Tensor) -> pa.Table:
    import pyarrow as pa

    count = len(outputs)
    columns = {
        "model": pa.array([model] * count),
        "set": pa.array([name] * count),
        "index": indexes.cpu().numpy(),
        "label": outputs.labels.to(torch.int32).numpy(),
        "predicted": outputs.logits.argmax(dim=1).to(torch.int32).numpy(),
        "p_y": outputs.true_probabilities.numpy(),
        "margin": outputs.margins.numpy(),
        "loss": outputs.losses.numpy(),
        "logits": pa.FixedSizeListArray.from_arrays(
            outputs.logits.float().reshape(-1).numpy(), outputs.classes
        ),
        "attack": pa.array(_roles(own, name), pa.string()),
        "member_score": _scores(own, name, MIA_SOURCE),
    }
    others = [attack for attack in names_in("attack") if attack not in (MIA, MIA_SOURCE)]
    columns |= {
        f"member_score_{attack.removeprefix('mia_')}": _scores(own, name, attack) for attack in others
    }
    return pa.table(columns)


def _scores(own: ModelOutputs, name: str, attack: str) -> pa.Array:
    import pyarrow as pa

    if name == "forget" and attack in own.attacks:
        return pa.array(own.attacks[attack].scores.numpy())
    return pa.nulls(len(own.sets[name]), pa.float64())


def _roles(own: ModelOutputs, name: str) -> list[str | None]:
    """Return the role of each image in the attacks' first draw."""
    count = len(own.sets[name])
    if not own.attacks:
        return [None] * count
    if name == "forget":
        return [TARGET] * count
    members, non_members = own.draws[0]
    role, rows = {"retain": (MEMBER, members), "test": (NON_MEMBER, non_members)}.get(
        name, (None, members[:0])
    )
    drawn = set(rows.tolist())
    return [role if row in drawn else None for row in range(count)]
