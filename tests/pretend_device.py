"""A device that is none: a tensor on `pretend` has a CPU tensor inside, and refuses what accelerators refuse.

Installed in torch's slot for devices of other packages (PrivateUse1), for good, before the first backward
pass of the process: autograd counts the devices then.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
# Their indices may be on the CPU.
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
NEW = [
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.eye.default,
    aten.eye.m,
    aten.linspace.default,
    aten.randperm.default,
    aten.tril_indices.default,
]
JOINING = {aten.cat.default, aten.stack.default}  # do not take a number from the CPU, as arithmetic does
UNKNOWN_WITHOUT_NUMBERS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}

waits: Counter[str] = Counter()  # by operation: the CPU had to wait for the device's numbers
random = torch.Generator()  # the device's own global random state
kernels: list[torch.library.Library] = []


class PretendTensor(Tensor):
    """A tensor on the pretend device. `inner` has its numbers, on the CPU."""

    inner: Tensor
    has_float64 = True

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendTensor:
        if inner.dtype == torch.float64 and not cls.has_float64:
            raise TypeError("the pretend device has no float64 now")
        made: PretendTensor = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="pretend:0",
        )
        return made

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(function, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: PretendTensor) -> None:
        self.inner = value.inner
        Tensor.data.__set__(self, value)

    def __repr__(self) -> str:
        return f"pretend({self.inner})"


def _computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the inner tensors; count it if it needs the numbers on the CPU."""
    _check_devices(function, args, kwargs)
    place = kwargs.get("device")
    leaves = place is not None and torch.device(place).type != "pretend"
    if place is not None and not leaves:
        kwargs = kwargs | {"device": "cpu"}
    run = _drawing(function) if torch.Tag.nondeterministic_seeded in function.tags else function
    found = run(*_mapped(_inner, args), **_mapped(_inner, kwargs))
    into_cpu = function is aten.copy_.default and not isinstance(args[0], PretendTensor)
    if into_cpu or (leaves and found.device.type == "cpu") or _needs_numbers(function, args):
        waits[str(function)] += 1
    if into_cpu:
        return args[0]
    if leaves:
        return found
    outer = _mapped(_outer, found)
    if _has_aliases(function):
        outer = return_and_correct_aliasing(function, args, kwargs, outer)
    for value in _written(function, args, kwargs):
        if value.shape != value.inner.shape:
            raise NotImplementedError(f"{function}: the pretend device can't resize {tuple(value.shape)}")
    return outer


def _needs_numbers(function: Any, args: Any) -> bool:
    """Return whether the CPU needs the device's numbers to go on: a shape or a number depends on them."""
    if function in INDEXING:
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return not UNKNOWN_WITHOUT_NUMBERS.isdisjoint(function.tags)


@functools.cache
def _has_aliases(function: Any) -> bool:
    """Return whether an operation gives back a view of an argument, or writes into one."""
    return any(argument.alias_info is not None for argument in function._schema.arguments)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Return the arguments or results of an operation, each changed. tree_map takes much longer."""
    if isinstance(value, tuple):
        return tuple([_mapped(change, one) for one in value])
    if isinstance(value, list):
        return [_mapped(change, one) for one in value]
    if isinstance(value, dict):
        return {name: _mapped(change, one) for name, one in value.items()}
    return change(value)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what is in the arguments of an operation."""
    if isinstance(value, tuple | list):
        for one in value:
            yield from _leaves(one)
    else:
        yield value


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, PretendTensor) else value


def _outer(value: Any) -> Any:
    return PretendTensor(value) if isinstance(value, Tensor) else value


def _is_foreign(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, PretendTensor)


def _check_devices(function: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise RuntimeError, as CUDA does, for tensors and generators of the CPU among the device's own."""
    generator = kwargs.get("generator")
    if generator is not None:
        raise RuntimeError(f"Expected a 'pretend' device type for generator but found '{generator.device}'")
    if function in COPIES:
        return
    given = (args[0], *args[2:]) if function in INDEXING else args
    for value in _leaves((*given, *kwargs.values())):
        if _is_foreign(value) and (value.ndim or function in JOINING):
            raise RuntimeError(f"{function}: expected all tensors on pretend:0, found one on {value.device}")
    for value in _written(function, args, kwargs):
        if _is_foreign(value):
            raise RuntimeError(f"{function}: expected an output on pretend:0, found one on {value.device}")


@functools.cache
def _written_arguments(function: Any) -> list[tuple[int, str]]:
    """Return the position and name of each argument that an operation writes into, as its schema says."""
    arguments = enumerate(function._schema.arguments)
    return [(place, argument.name) for place, argument in arguments if argument.is_write]


def _written(function: Any, args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation writes into."""
    found = []
    for place, name in _written_arguments(function):
        value = args[place] if place < len(args) else kwargs.get(name)
        if isinstance(value, Tensor):
            found.append(value)
    return found


def _drawing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operation, drawing from the device's random state and not from the CPU's."""

    def drawn(*args: Any, **kwargs: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(random.get_state())
            found = function(*args, **kwargs)
            random.set_state(torch.get_rng_state())
        return found

    return drawn


class Module:
    """`torch.pretend`: what torch asks of the module of a kind of device."""

    is_initialized = is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    synchronize = staticmethod(lambda device=0: None)
    current_device = staticmethod(lambda: 0)
    _is_in_bad_fork = staticmethod(lambda: False)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])
    manual_seed = manual_seed_all = staticmethod(random.manual_seed)
    get_rng_state = staticmethod(lambda device=0: random.get_state())
    set_rng_state = staticmethod(lambda state, device=0: random.set_state(state))


def _made(function: Any, *args: Any, **options: Any) -> Tensor:
    """Make a new tensor on the device."""
    options |= {"device": "cpu", "pin_memory": False}
    run = _drawing(function) if torch.Tag.nondeterministic_seeded in function.tags else function
    return PretendTensor(run(*args, **options))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _inner(target).copy_(_inner(source))
    return target


def install() -> None:
    """Tell torch of the device. New tensors and copies to it have kernels; the rest is `PretendTensor`'s."""
    if kernels:
        return
    _setup_privateuseone_for_python_backend("pretend", Module())
    own, others = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    for function in NEW:
        own.impl(function.name(), functools.partial(_made, function), "PrivateUse1")
    # The tangents of forward mode; the CPU's have no numbers that the inner operations could read.
    own.impl("_efficientzerotensor", functools.partial(_made, aten.zeros.default), "PrivateUse1")
    own.impl("_copy_from", _copy_from, "PrivateUse1")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    kernels.extend((own, others))
