"""Which parts of the members are trained (`--train`), how fast (`--layer_decay`), and what stays in eval mode.

Every choice leaves a plain checkpoint: nothing is added to the models, parameters are only frozen. Frozen parts keep no
activations for the backward pass and no optimizer state.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import nn

from ...data.members import MEMBERS
from ..heads import backbone_prefixes, class_tensors
from ..pair import ModelPair

CHOICES = "all, head, norms, last:N (N blocks, such as last:2)"
_LIST_INDEX = re.compile(r"\.\d+(?=\.)")


def check_choice(flag: str, choice: str) -> None:
    """Raise a ValueError for an unknown value of `--train`."""
    if choice not in ("all", "head", "norms") and not re.fullmatch(r"last:[1-9]\d*", str(choice)):
        raise ValueError(f"`{flag}` {choice!r} is not one of: {CHOICES}.")


def choose_trained(pair: ModelPair, choices: dict[str, str], *, freeze_batch_norm: bool = False) -> None:
    """Freeze everything but the chosen parts of each member, in place.

    Heads are always trained: everything outside the backbone, everything that depends on the classes, and all weights
    that were initialized instead of loaded. A module without trained parameters stays in eval mode when the pair is set
    to train, so that its dropout is off and its BatchNorm statistics are fixed, too.

    Args:
        choices: by member: `all`; `head`; `norms` (and the head); `last:N` (the last N blocks of the backbone,
            everything after them, and the head).
        freeze_batch_norm: keep the running statistics of all loaded BatchNorm layers and normalize with them; their
            weights are still trained.

    Raises:
        ValueError: a member whose backbone cannot be separated from its head, or was never pretrained; more blocks than
            there are; no BatchNorm statistics to keep; weights to train in half precision.
    """
    learning = {name: _learning(pair, name, choice) for name, choice in choices.items() if choice != "all"}
    norms = [norm for name in MEMBERS for norm in _loaded_batch_norms(pair, name)] if freeze_batch_norm else []
    if freeze_batch_norm and not norms:
        raise ValueError(
            "`freeze_batch_norm`: neither model has BatchNorm layers with statistics from a checkpoint, so there is "
            "nothing to freeze. Omit it."
        )
    for parameter in pair.frozen:  # by an earlier trainer of this pair
        parameter.requires_grad_(True)
    pair.frozen, pair.resting = [], norms
    for name, names in learning.items():
        for key, parameter in pair.member(name).named_parameters():
            pair.frozen += [parameter] if parameter.requires_grad and key not in names else []
            parameter.requires_grad_(key in names)
        pair.resting += _without_learning(pair.member(name))
    pair.train(pair.training)
    for name in MEMBERS:
        learns = [parameter for parameter in pair.member(name).parameters() if parameter.requires_grad]
        if low := {str(one.dtype) for one in learns if one.dtype in (torch.float16, torch.bfloat16)}:
            raise ValueError(
                f"Model {name} has weights in {low.pop()}, where small updates are rounded away. Call "
                "model.float(), or load it with dtype=torch.float32; `bf16=True` still computes in bfloat16."
            )
        if not learns:
            raise ValueError(
                f"Model {name} has no parameter that requires a gradient, so it cannot be trained. Call "
                f"model.requires_grad_(True); `train{'_b' if name == 'b' else ''}` freezes parts of it."
            )


def learning_rate_scales(pair: ModelPair, decay: float) -> dict[str, dict[str, float]]:
    """By member and parameter, the factor on its learning rate: 1 for the head, `decay` for the last block of the
    backbone, its square for the one before, and so on down to the stem (Clark et al. 2020, BEiT).

    Raises:
        ValueError: a backbone that cannot be separated from its head, or neither backbone is pretrained.
    """
    scales = {}
    for name in MEMBERS:
        groups = _blocks(pair, name) if backbone(pair, name) else []
        scales[name] = {
            key: decay ** (len(groups) - position) for position, group in enumerate(groups) for key in group
        }
    if not any(scales.values()):
        raise ValueError(
            "`layer_decay`: both models are randomly initialized, so there are no pretrained layers to preserve. Give "
            "pretrained checkpoints, or omit it."
        )
    return scales


def backbone(pair: ModelPair, name: str) -> set[str]:
    """The names of a member's pretrained parameters before its head; empty if there are none."""
    model = pair.member(name)
    head = class_tensors(model) | pair.fresh[name]
    inside = backbone_prefixes(model, class_tensors(model))
    return {key for key, _ in model.named_parameters() if key not in head and key.startswith(inside)}


def _learning(pair: ModelPair, name: str, choice: str) -> set[str]:
    """The names of the trained parameters of a member."""
    model = pair.member(name)
    resting = backbone(pair, name)
    if not resting:
        raise ValueError(
            f"`train='{choice}'`: the backbone of model {name} ({model.config.model_type!r}) is randomly initialized, "
            "or cannot be separated from its head, so there is nothing in it to preserve. Give a pretrained "
            "checkpoint, or omit it."
        )
    learning = {key for key, _ in model.named_parameters()} - resting
    if choice == "norms":
        return learning | {key for key in resting if _is_norm(model.get_submodule(key.rpartition(".")[0]))}
    if choice.startswith("last:"):
        wanted, (_, *blocks) = int(choice.removeprefix("last:")), _blocks(pair, name)
        if wanted > len(blocks):
            raise ValueError(
                f"`train='{choice}'`: the backbone of model {name} ({model.config.model_type!r}) has {len(blocks)} "
                "blocks. Give fewer, or `train='all'`."
            )
        return learning.union(*blocks[-wanted:])
    return learning


def _is_norm(module: nn.Module) -> bool:
    """Batch, layer, group and RMS norms of torch, transformers and timm."""
    return "norm" in type(module).__name__.lower() and all(weight.ndim <= 1 for weight in module.parameters())


def _blocks(pair: ModelPair, name: str) -> list[set[str]]:
    """The parameters of a member's backbone in the order of the forward pass: the stem, then block by block.

    A block is a transformer layer or a residual block: an entry of a list of modules, or of a list within that (a
    stage). Modules between blocks, such as a patch merging or the last norm, belong to the block before them.
    """
    model = pair.member(name)
    names = backbone(pair, name)
    called = _order_of_calls(pair, name)

    def position(key: str) -> int:
        owner = key
        while owner:
            owner = owner.rpartition(".")[0]
            if owner in called:
                return called[owner]
        return 0

    pieces: dict[str, list[str]] = {}
    for key in sorted(names, key=position):
        pieces.setdefault(_list_entry(key) or key, []).append(key)
    # Not position embeddings, which PVT has in its patch embeddings.
    weights = {piece: [key for key in keys if key.endswith("weight")] for piece, keys in pieces.items()}
    matrices = {piece: sum(model.get_parameter(key).ndim > 1 for key in keys) for piece, keys in weights.items()}
    entries = {piece for piece in pieces if piece not in names}
    # A single convolution or norm in a list is part of a block, unless all blocks are like that, as in MobileNetV1.
    starts = {piece for piece in entries if matrices[piece] > 1} or entries
    groups: list[set[str]] = [set()]
    for piece, keys in pieces.items():
        if piece in starts:
            groups.append(set())
        groups[-1] |= set(keys)
    return groups


def _list_entry(key: str) -> str | None:
    """The path of a parameter up to its second list index, or to the only one; None outside lists."""
    ends = [found.end() for found in _LIST_INDEX.finditer(key)]
    return key[: ends[min(len(ends), 2) - 1]] if ends else None


def _order_of_calls(pair: ModelPair, name: str) -> dict[str, int]:
    """The position of each module's first call in a forward pass, by its name."""
    model = pair.member(name)
    order: dict[str, int] = {}

    def note(path: str) -> None:
        order.setdefault(path, len(order))

    hooks = [
        module.register_forward_pre_hook(lambda *_, path=path: note(path)) for path, module in model.named_modules()
    ]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            pair.clean_logits(name, torch.zeros(1, 3, *pair.view(name).size))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return order


def _without_learning(module: nn.Module) -> list[nn.Module]:
    """The largest modules inside `module` that have parameters, none of which is trained."""
    learns = [parameter.requires_grad for parameter in module.parameters()]
    if not any(learns):
        return [module] if learns else []
    return [found for child in module.children() for found in _without_learning(child)]


def _loaded_batch_norms(pair: ModelPair, name: str) -> Iterator[nn.Module]:
    for path, module in pair.member(name).named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{path}.running_mean" not in pair.fresh[name]:
            yield module
