"""A device that is not there: its tensors compute on the CPU, and refuse those of the CPU as a GPU would.

So that code for a GPU can be run, step by step and to its end, where there is none. What it does not show:
speed, the order in which a GPU does its work, and its own rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

IS_POSSIBLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")

aten = torch.ops.aten
_NAME = "pretended"

# What may have tensors of both: copies, and indices, which may be on the CPU for a tensor of a GPU.
_COPIES = {aten._to_copy.default, aten.copy_.default}
_WITH_INDICES = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
}
_JOINS = {aten.cat.default, aten.stack.default}
# What autocast on CUDA computes in half precision, in single precision, and in the widest of its arguments
# (https://docs.pytorch.org/docs/stable/amp.html): of all these, what networks here are made of.
_IN_HALF = "conv1d conv2d conv_transpose2d linear matmul addmm mm bmm baddbmm scaled_dot_product_attention"
_IN_SINGLE = (
    "exp log log1p pow rsqrt reciprocal softplus layer_norm group_norm softmax log_softmax sum prod cumsum "
    "norm nll_loss smooth_l1_loss mse_loss l1_loss cdist upsample_bilinear2d upsample_nearest2d"
)
_IN_WIDEST = "addcmul atan2 dot grid_sampler index_put scatter_add"


class Elsewhere(torch.Tensor):
    """A tensor that says it is on that device; its values are in `held`, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=device(),
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # as files are read, on the CPU

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Pretending(TorchDispatchMode):
    """Sends what is made on, or copied to, the device that is not there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in _flat((*args, *kwargs.values())) if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, Elsewhere) for x in tensors)
    asked = kwargs.get("device")
    if not there and (asked is None or torch.device(asked).type != _NAME):
        return func(*args, **kwargs)
    if func is aten._fused_sdp_choice.default:
        return 0  # which kernel it takes; this one is made of others
    if there and func not in _COPIES:
        _refuse_mixed(func, args, tensors)
    if asked is not None:
        there = torch.device(asked).type == _NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif func is aten.copy_.default:
        there = isinstance(args[0], Elsewhere)
    kwargs.pop("pin_memory", None)
    result = func(*_each(_held, args), **{name: _each(_held, value) for name, value in kwargs.items()})
    if func._schema.is_mutable and func._schema.arguments[0].alias_info is not None:
        return args[0] if func._schema.returns else None  # changed in place
    return _each(_there, result) if there else result


def _refuse_mixed(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    if func in _WITH_INDICES and isinstance(args[0], Elsewhere):
        tensors = [args[0], *args[2:3]]
    strangers = [x for x in tensors if not isinstance(x, Elsewhere) and (x.dim() or func in _JOINS)]
    if strangers:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found some of the CPU in {func}: "
            f"{[tuple(x.shape) for x in strangers]}"
        )


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _each(change: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """Change all tensors of what an operation takes or returns, which lies in lists and tuples."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(_each(change, x) for x in value)
    return value


def _there(tensor: torch.Tensor) -> torch.Tensor:
    # As those of Apple; torch's scaler of gradients knows of it and has a single number there otherwise.
    if tensor.dtype in (torch.float64, torch.complex128) and tensor.dim():
        raise TypeError(f"The device has no {tensor.dtype}.")
    return Elsewhere(tensor)


def _held(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.held if isinstance(tensor, Elsewhere) else tensor


def device() -> torch.device:
    """Return the device, in a process in which `begin` was called."""
    return torch.device(_NAME, 0)


def begin() -> None:
    """Let torch believe that there is such a device, in this process and for good."""

    class Backend(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

    backend_registration._setup_privateuseone_for_python_backend(_NAME, Backend())
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)
    torch.inference_mode = _without_gradients
    torch.set_num_threads(1)
    _register_autocast()
    _Pretending().__enter__()


_KEY = "AutocastPrivateUse1"
_ALL, _AUTOCAST = torch.library.Library("_", "IMPL", _KEY), torch.library.Library("aten", "IMPL", _KEY)


def _register_autocast() -> None:
    _ALL.fallback(torch.library.fallthrough_kernel)

    def half(_: list[torch.Tensor]) -> torch.dtype:
        return torch.get_autocast_dtype(_NAME)

    def single(_: list[torch.Tensor]) -> torch.dtype:
        return torch.float32

    def widest(tensors: list[torch.Tensor]) -> torch.dtype:
        return max((x.dtype for x in tensors), key=lambda dtype: dtype.itemsize)

    for names, precision in ((_IN_HALF, half), (_IN_SINGLE, single), (_IN_WIDEST, widest)):
        for packet in (getattr(aten, name) for name in names.split()):
            for name in packet.overloads():
                if "out" not in name and "Dimname" not in name:
                    operation = getattr(packet, name)
                    _AUTOCAST.impl(operation, functools.partial(_cast_and_call, operation, precision))


def _cast_and_call(operation: Any, precision: Any, *args: Any, **kwargs: Any) -> Any:
    def is_float(x: Any) -> bool:
        return isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype != torch.float64

    autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    with torch._C._ExcludeDispatchKeyGuard(autocast):
        if floats := [x for x in _flat((*args, *kwargs.values())) if is_float(x)]:
            dtype = precision(floats)
            args = _each(lambda x: x.to(dtype) if is_float(x) else x, args)
        return operation(*args, **kwargs)


def _without_gradients(mode: bool = True) -> Any:
    """Stand in for the inference mode, in which views of tensors of this kind cannot be made."""
    return torch.no_grad() if mode else torch.enable_grad()
