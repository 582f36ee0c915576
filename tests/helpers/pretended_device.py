"""A device that is not there: its tensors compute on the CPU, and refuse those of the CPU as a GPU would.

So that code for a GPU can be run, step by step and to its end, where there is none. What it does not show:
speed, the order in which a GPU does its work, and its own rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

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
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, Elsewhere) for x in tensors)
    asked = kwargs.get("device")
    if func is aten._fused_sdp_choice.default and there:
        return 0  # which kernel it takes; this one is made of others
    _refuse_mixed(func, args, tensors, there)
    if asked is not None:
        there = torch.device(asked).type == _NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif func is aten.copy_.default:
        there = isinstance(args[0], Elsewhere)
    kwargs.pop("pin_memory", None)
    result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if func._schema.is_mutable and func._schema.arguments[0].alias_info is not None:
        return args[0]  # changed in place
    if func in (aten._to_copy.default,) and not there and isinstance(args[0], Elsewhere):
        return result.clone()
    return tree_map(lambda x: Elsewhere(x) if isinstance(x, torch.Tensor) else x, result) if there else result


def _refuse_mixed(func: Any, args: Any, tensors: list[torch.Tensor], there: bool) -> None:
    if not there or func in _COPIES:
        return
    if func in _WITH_INDICES and isinstance(args[0], Elsewhere):
        tensors = [args[0], *args[2:3]]
    strangers = [x for x in tensors if not isinstance(x, Elsewhere) and (x.dim() or func in _JOINS)]
    if strangers:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found some of the CPU in {func}: "
            f"{[tuple(x.shape) for x in strangers]}"
        )


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value


def device() -> torch.device:
    """Return the device, in a process in which `begin` was called."""
    return torch.device(_NAME, 0)


def begin() -> None:
    """Let torch believe that there is such a device, in this process and for good."""
    backend_registration._setup_privateuseone_for_python_backend(_NAME, _Backend())
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)
    torch.inference_mode = _without_gradients
    torch.set_num_threads(1)
    _Pretending().__enter__()


def _without_gradients(mode: bool = True) -> Any:
    """Stand in for the inference mode, in which views of tensors of this kind cannot be made."""
    return torch.no_grad() if mode else torch.enable_grad()


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]
