"""What the parameters of an encoder are for, read off its module tree, so that masks mean the same in all of them.

- `embeddings`: of tokens, positions and types, with the norm and the projection that belong to them.
- `attention`, `feed_forward`: in every layer. The norms inside of an attention module are part of it.
- `attention.output`, `feed_forward.output`: their last linear map, back to the width of the layer.
- `layers.0`, `layers.1`, ...: the layers themselves; in a mask also `layers.0-5`.
- `norms`, `biases`: anywhere.
- `pooler`, and `dense`: what sentence-transformers' `Dense` modules compute after the pooling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sentence_transformers.sentence_transformer.modules import Dense
from torch import Tensor, nn


def find(module: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The names of the parameters in each role, in the order of `parameters`. Roles without any are left out."""
    layers = _layers(module)
    attention = [list(_outermost(layer, "Attention")) for layer in layers]
    feed_forward = [_linear(layer, without=own) for layer, own in zip(layers, attention, strict=True)]
    parts: dict[str, list[nn.Module]] = {
        "embeddings": list(_embeddings(module, layers)),
        "attention": [one for own in attention for one in own],
        "attention.output": [maps[-1] for own in attention for one in own if (maps := _linear(one))],
        "feed_forward": [one for own in feed_forward for one in own],
        "feed_forward.output": [own[-1] for own in feed_forward if own],
        "norms": [one for one in module.modules() if "Norm" in type(one).__name__ and not list(one.children())],
        "pooler": [one for name, one in module.named_modules() if name.rpartition(".")[2] == "pooler"],
        "dense": [one for one in module.modules() if isinstance(one, Dense)],
        **{f"layers.{number}": [layer] for number, layer in enumerate(layers)},
    }
    names = {id(parameter): name for name, parameter in parameters.items()}
    found = {role: {names.get(id(p), "") for one in own for p in one.parameters()} for role, own in parts.items()}
    found["biases"] = {name for name in parameters if name.rpartition(".")[2] == "bias"}
    ordered = {role: [name for name in parameters if name in own] for role, own in found.items()}
    return {role: own for role, own in ordered.items() if own}


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers of a transformer: the outermost list of modules which all have an attention."""
    for one in module.modules():  # from the outside in
        if isinstance(one, nn.ModuleList) and len(one) and all(any(_outermost(layer, "Attention")) for layer in one):
            return list(one)
    return []


def _embeddings(module: nn.Module, layers: list[nn.Module]) -> Iterator[nn.Module]:
    """The tables of embeddings outside of all layers, each with all that surrounds it below the layers' own parent.

    A table of attention biases by distance is none.
    """
    parents = {child: parent for parent in module.modules() for child in parent.children()}
    around = _ancestors(layers[0], parents) if layers else {module}
    within = {inner for layer in layers for inner in layer.modules()}
    for name, one in module.named_modules():
        if isinstance(one, nn.Embedding | nn.EmbeddingBag) and one not in within and "bias" not in name:
            while one not in around and parents[one] not in around:
                one = parents[one]  # the module that it is a part of
            yield one


def _ancestors(module: nn.Module, parents: Mapping[nn.Module, nn.Module]) -> set[nn.Module]:
    found = set()
    while module in parents:
        module = parents[module]
        found.add(module)
    return found


def _outermost(module: nn.Module, word: str) -> Iterator[nn.Module]:
    """The modules whose class has `word` in its name, without those inside of another one."""
    for one in module.children():
        if word in type(one).__name__:
            yield one
        else:
            yield from _outermost(one, word)


def _linear(module: nn.Module, without: list[nn.Module] | None = None) -> list[nn.Module]:
    """The linear maps in a module, in order, but for those in some parts of it."""
    left_out = {inner for one in without or [] for inner in one.modules()}
    return [one for one in module.modules() if isinstance(one, nn.Linear) and one not in left_out]
