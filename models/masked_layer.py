"""Split a model at the layer that is masked: body -> linear layer -> head.

Everything before the layer is computed once; a masked model is never rebuilt to be evaluated.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from lethe.flag_error import FlagError
from lethe.models.mask import uncompiled
from lethe.nearest_name import did_you_mean


@dataclass(frozen=True)
class MaskedLayer:
    """A linear layer z = W h + b inside a model, W (m, n).

    `body(images) -> h (N, n)` and `head(z (N, m), images) -> logits (N, classes)`: head(layer(body(x)), x)
    equals model(x).

    needs_images: `head` reads the images, as a path in the model bypasses the layer or the model can't be
    traced. relu_follows: in the traced model only a relu reads z.
    """

    name: str
    layer: nn.Linear
    body: Callable[[Tensor], Tensor]
    head: Callable[[Tensor, Tensor | None], Tensor]
    needs_images: bool
    relu_follows: bool = False

    @property
    def weight(self) -> Tensor:
        return self.layer.weight.detach()

    @property
    def bias(self) -> Tensor | None:
        return None if self.layer.bias is None else self.layer.bias.detach()

    @property
    def shape(self) -> tuple[int, int]:
        return self.layer.out_features, self.layer.in_features

    @property
    def size(self) -> int:
        return self.layer.weight.numel()


def linear_layers(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the linear layers that run on `images` (N, C, H, W), in forward order, with their inputs.

    Raises ValueError for a model with a compiled part, in which hooks don't run.
    """
    model = uncompiled(model)
    for part, module in model.named_modules():
        if uncompiled(module) is not module:
            raise ValueError(
                "expected a model that is compiled as a whole or not at all, got one with a compiled part "
                f"{part!r}. Uncompile it"
            )
    seen: dict[str, Tensor] = {}
    names = {module: name for name, module in model.named_modules()}

    def note(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        name = names[layer]
        h = inputs[0].detach()
        seen[name] = torch.cat([seen[name].flatten(0, -2), h.flatten(0, -2)]) if name in seen else h

    handles = [m.register_forward_pre_hook(note) for m in names if isinstance(m, nn.Linear)]
    try:
        with evaluating(model), torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def find_layer(model: nn.Module, mask_layer: str, images: Tensor) -> str:
    """Resolve `mask_layer`: a module name, or an index over the linear layers in forward order.

    Raises ValueError for an unknown name or index, a layer that is not linear, and one whose input is not one
    vector per image.
    """
    model = uncompiled(model)
    inputs = linear_layers(model, images)
    names = list(inputs)
    if not names:
        raise FlagError(
            "mask_layer", "expected a model with a linear layer, got one without. Choose another --arch"
        )
    modules = dict(model.named_modules())
    if mask_layer in modules and mask_layer:
        name = mask_layer
        if name not in inputs:
            kind = type(modules[name]).__name__
            raise FlagError(
                "mask_layer",
                f"expected a linear layer, got {name!r}, a {kind}. Linear layers: {', '.join(names)}",
            )
    elif mask_layer.removeprefix("-").isdecimal():
        if not -len(names) <= int(mask_layer) < len(names):
            least, most = -len(names), len(names) - 1
            raise FlagError(
                "mask_layer",
                f"expected an index from {least} to {most}, got {mask_layer}. Linear layers: "
                f"{', '.join(names)}",
            )
        name = names[int(mask_layer)]
    else:
        raise FlagError("mask_layer", did_you_mean("layer", mask_layer, names, "linear layers"))
    if inputs[name].ndim != 2 or len(inputs[name]) != len(images):
        shape = tuple(inputs[name].shape)
        raise FlagError(
            "mask_layer",
            f"expected a layer that sees one vector an image, and {name!r} sees {shape} for "
            f"{len(images)} images. Choose another of {', '.join(names)}",
        )
    return name


def split_at(model: nn.Module, mask_layer: str, images: Tensor) -> MaskedLayer:
    """Split the model at the layer `mask_layer` (see `find_layer`); `images` is any small batch.

    The model is traced (torch.fx) and cut if the head depends on the layer's output alone. Otherwise, or if
    it can't be traced or the trace lacks something (a hook on the model itself), the head is the whole
    forward pass with the layer's output replaced.
    """
    model = uncompiled(model)
    name = find_layer(model, mask_layer, images)
    layer = model.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise FlagError("mask_layer", f"expected a linear layer, got {name!r}. Choose a linear one")
    cut = _cut(model, name, images)
    if cut is None:
        return MaskedLayer(
            name, layer, _body_by_hook(model, layer), _head_by_hook(model, layer), needs_images=True
        )
    body, head, relu_follows = cut

    def body_in_eval(images: Tensor) -> Tensor:
        with evaluating(model):
            h: Tensor = body(images)
        return h

    def head_in_eval(z: Tensor, images: Tensor | None) -> Tensor:
        with evaluating(model):
            logits: Tensor = head(z.clone())  # the model may write into it (ReLU(inplace=True))
        return logits

    return MaskedLayer(name, layer, body_in_eval, head_in_eval, needs_images=False, relu_follows=relu_follows)


def tail_at(model: nn.Module, mask_layer: str, images: Tensor) -> nn.Module:
    """Return the model from its masked layer on, h (N, n) -> logits in eval mode.

    Its `layer` is a copy, its `head` has the model's own modules: tail_at(model, ...)(split_at(model,
    ...).body(x)) equals model(x). Raises ValueError if the model can't be traced or a path bypasses the
    layer.
    """
    model = uncompiled(model)
    name = find_layer(model, mask_layer, images)
    cut = _cut(model, name, images)
    if cut is None:
        raise ValueError(
            f"expected a model whose logits depend on layer {name!r} alone, got one that bypasses it. Use "
            "the whole model"
        )
    tail = nn.Sequential(OrderedDict(layer=copy.deepcopy(model.get_submodule(name)), head=cut[1]))
    tail.mask_layer = "layer"  # type: ignore[assignment]  # read by methods
    return tail.eval()


def _cut(model: nn.Module, name: str, images: Tensor) -> tuple[nn.Module, nn.Module, bool] | None:
    """Return body and head as graphs over the model's own modules, and whether only a relu reads z.

    None if the model can't be cut at `name`, or if the parts give other logits for `images` than the model.
    """
    with evaluating(model), torch.no_grad():
        cut = _traced(model, name)
        if cut is None:
            return None
        body, head, _ = cut
        z = model.get_submodule(name)(body(images.clone()))
        return cut if alike(head(z), model(images.clone())) else None


def alike(ours: Any, theirs: Any) -> bool:
    """Return whether two tensors are equal up to rounding, also NaN and infinities; True for no tensors."""
    if not (isinstance(ours, Tensor) and isinstance(theirs, Tensor)):
        return True
    finite, rounding = theirs[theirs.isfinite()].abs(), 0.0
    if theirs.is_floating_point() and len(finite):
        rounding = 16 * torch.finfo(theirs.dtype).eps * float(finite.max())
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=0, atol=rounding, equal_nan=True)


def _traced(model: nn.Module, name: str) -> tuple[nn.Module, nn.Module, bool] | None:
    try:
        graph = fx.Tracer().trace(model)
    # The model's own code runs on fx's proxies and may raise anything; the hooks need no trace.
    except Exception:  # noqa: BLE001
        return None
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    if len(calls) != 1:
        return None
    head = _head_graph(graph, calls[0])
    if head is None:
        return None
    body = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node is calls[0]:
            break
        copied[node] = body.node_copy(node, copied.__getitem__)
    body.output(copied[calls[0].all_input_nodes[0]])
    relu_follows = all(_is_relu(node, model) for node in calls[0].users)
    return fx.GraphModule(model, body).eval(), fx.GraphModule(model, head).eval(), relu_follows


def _is_relu(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return type(module) is nn.ReLU and not module._forward_pre_hooks
    return node.target in (F.relu, torch.relu, torch.relu_, "relu", "relu_")


def _head_graph(graph: fx.Graph, layer: fx.Node) -> fx.Graph | None:
    head = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {layer: head.placeholder("z")}
    after = False
    for node in graph.nodes:
        if after and node.op != "get_attr" and any(n not in copied for n in node.all_input_nodes):
            return None
        if after or node.op == "get_attr":
            copied[node] = head.node_copy(node, copied.__getitem__)
        after = after or node is layer
    return head


class _InputSeen(Exception):
    """Raised by a hook to stop a forward pass at the masked layer; carries the layer's input."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


def _body_by_hook(model: nn.Module, layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    def stop(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        raise _InputSeen(inputs[0])

    def body(images: Tensor) -> Tensor:
        with evaluating(model), _hooked(layer.register_forward_pre_hook(stop)):
            try:
                model(images)
            except _InputSeen as seen:
                return seen.value
        raise ValueError("the masked layer did not run on these images. Choose another with --mask_layer")

    return body


def _head_by_hook(model: nn.Module, layer: nn.Linear) -> Callable[[Tensor, Tensor | None], Tensor]:
    def head(z: Tensor, images: Tensor | None) -> Tensor:
        with evaluating(model), _hooked(layer.register_forward_hook(lambda *_: z.clone())):
            logits: Tensor = model(images)
        return logits

    return head


@contextmanager
def _hooked(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set the model to eval mode; restore every module's mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
