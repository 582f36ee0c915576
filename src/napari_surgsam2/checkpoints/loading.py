"""From a checkpoint file to a network on a device."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_surgsam2.errors import CheckpointError, DeviceError, DeviceMemoryError, UsageError
from napari_surgsam2.network import NetworkConfig, Sam2Network, config_from_state_dict
from napari_surgsam2.paths import expanded

from .download import Progress, ensure_downloaded
from .registry import CHECKPOINT_SUFFIXES, registry_entry

DEFAULT_IMAGE_SIZE = 1024
CONFIG_KEY = "napari_surgsam2.network"
IMAGE_SIZE_KEY = "napari_surgsam2.image_size"
_SIZE_STEP = 32  # the trunk halves the side five times
_SIZE_LIMITS = (32, 4096)


@dataclass(frozen=True, eq=False)
class Model:
    """A network ready to track with.

    Attributes
    ----------
    name : str
        Its registry name, or the file's.
    path : Path
        The checkpoint.
    network : Sam2Network
        In evaluation mode, on `device`.
    image_size : int
        Side of the network's square input, in pixels; a multiple of 32.
    device : torch.device
        Where it runs.
    """

    name: str
    path: Path
    network: Sam2Network
    image_size: int
    device: torch.device

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.network.parameters())


def load_model(
    name_or_path: str | Path,
    *,
    image_size: int | None = None,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> Model:
    """Load a model.

    Parameters
    ----------
    name_or_path : str or path
        A registry name: "nano", which is built in, or one such as "sam2.1_hiera_tiny", downloaded when
        first used. Or a checkpoint of SAM 2, SAM 2.1 or Surgical SAM 2: `.pt` and `.pth` (as
        `{"model": parameters}` or the parameters alone) or `.safetensors`. Which architecture it is is told
        from the parameters.
    image_size : int, optional
        Side of the network's square input in pixels, a multiple of 32; smaller is faster and coarser. What
        the model was made for if left out.
    device : {"auto", "cpu", "cuda", "cuda:N", "mps"} or torch.device
        "auto" takes CUDA where there is one, then MPS, then the CPU.
    progress : callable, optional
        Told of a download's progress: bytes done and in all.

    Raises
    ------
    UsageError
        If the name or the image size cannot be used.
    DeviceError
        If the device is not there.
    CheckpointError
        If the file is missing, damaged, unsafe or of another network.
    DeviceMemoryError
        If the device has no room for it.
    """
    check_model(name_or_path, image_size=image_size, device=device)  # before a long download
    chosen = resolve_device(device)
    path, default_size = _locate(name_or_path, progress)
    state, metadata = read_checkpoint(path)
    network = build_network(state, metadata, path)
    size = _own_image_size(metadata, path, default_size) if image_size is None else image_size
    try:
        network = network.to(chosen)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(
            f"The device '{chosen}' has no room for the model '{name_or_path}'; end what else uses it, or "
            "take a smaller model or the device 'cpu'."
        ) from error
    return Model(str(name_or_path), path, network.eval(), size, chosen)


def check_model(
    name_or_path: str | Path, *, image_size: int | None = None, device: str | torch.device = "auto"
) -> None:
    """Check what can be told of a model without downloading or reading it; all is as of `load_model`."""
    resolve_device(device)
    if image_size is not None:
        check_image_size(image_size)
    path = expanded(name_or_path)
    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        _require_file(path)
    else:
        registry_entry(str(name_or_path))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device had too little memory; only CUDA has an error of its own for that."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
        or "ALLOC_FAILED" in text  # of cuBLAS and cuDNN
    )


def check_image_size(size: int) -> None:
    """Raise UsageError unless `size` is a usable input size."""
    low, high = _SIZE_LIMITS
    if size % _SIZE_STEP or not low <= size <= high:
        raise UsageError(
            f"The image size is {size}; it must be a multiple of {_SIZE_STEP} from {low} to {high}, such as "
            "512 or 1024."
        )


def available_devices() -> list[str]:
    """Return what this machine can compute on: "cpu", "cuda:0", ..., "mps"."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device asked for.

    Raises
    ------
    DeviceError
        If it is not there.
    """
    here = available_devices()
    if str(device) == "auto":
        best = next((kind for kind in ("cuda", "mps") if any(d.startswith(kind) for d in here)), "cpu")
        return torch.device(best)
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"The device is '{device}'; it must be auto, cpu, cuda, cuda:N or mps.")
    number = chosen.index or 0
    wanted = f"{chosen.type}:{number}" if chosen.type == "cuda" or number else chosen.type
    if wanted not in here:
        cuda = any(d.startswith("cuda") for d in here)
        driver = "; for CUDA, install the build of PyTorch for your graphics driver"
        raise DeviceError(
            f"The device '{device}' is not there; this machine has: {', '.join(here)}. Use one of these, or "
            f"'auto'{driver if chosen.type == 'cuda' and not cuda else ''}."
        )
    return chosen


def _require_file(path: Path) -> None:
    if os.path.isdir(path):  # noqa: PTH112  # those of pathlib raise where a folder may not be entered
        raise CheckpointError(f"'{path}' is a folder; a checkpoint is a file. Give the file itself.")
    if not os.path.isfile(path):  # noqa: PTH113
        raise CheckpointError(
            f"There is no checkpoint at '{path}', or it may not be looked at; check the path and the "
            "permissions."
        )


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read parameters and metadata of a checkpoint; nothing in the file is executed.

    Raises
    ------
    CheckpointError
        If the file is missing or is not a checkpoint.
    """
    _require_file(path)
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the errors below say more
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(
            f"'{path}' cannot be read: {error.strerror}. Change its permissions, or copy it."
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"'{path}' is not a checkpoint that can be read safely: it is no PyTorch file, or it holds code "
            "besides parameters. Save its parameters alone, with torch.save(model.state_dict(), file)."
        ) from error
    except Exception as error:  # a damaged file fails in many ways
        raise CheckpointError(
            f"'{path}' cannot be read as a PyTorch checkpoint; it may be truncated or of another kind. "
            "Download or copy it again."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(
            f"'{path}' holds no parameters; a checkpoint is a dictionary of tensors, or {{'model': one}}."
        )
    return {str(k): v for k, v in content.items()}, {}


def build_network(state: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> Sam2Network:
    """Make the network that the parameters belong to, and load them strictly.

    Raises
    ------
    CheckpointError
        If they are of another network, or some are missing.
    """
    text = metadata.get(CONFIG_KEY)
    try:
        config = NetworkConfig.from_json(text) if text else config_from_state_dict(state)
        network = None if config is None else Sam2Network(config)
    except Exception as error:  # what stands in the file may be anything
        raise CheckpointError(
            f"'{path}' describes a network that cannot be made ({type(error).__name__}: {error}). Download "
            "or save it again."
        ) from error
    if network is None:
        some = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"'{path}' is not a checkpoint of SAM 2, SAM 2.1 or Surgical SAM 2 "
            f"({f'its parameters: {some}, ...' if some else 'it has no parameters'}); use one of these."
        )
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    wrong = [f"{k} is missing" for k in expected if k not in found]
    wrong += [f"{k} is not one of its parameters" for k in found if k not in expected]
    wrong += [f"{k} has shape {found[k]}, not {s}" for k, s in expected.items() if found.get(k, s) != s]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"'{path}' does not fit the network: {'; '.join(wrong[:3])}{more}.")
    network.load_state_dict(state)
    return network


def _locate(name_or_path: str | Path, progress: Progress | None) -> tuple[Path, int]:
    path = expanded(name_or_path)
    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        return path, DEFAULT_IMAGE_SIZE
    entry = registry_entry(str(name_or_path))
    return ensure_downloaded(entry, progress), entry.image_size


def _own_image_size(metadata: Mapping[str, str], path: Path, default: int) -> int:
    """Return the input size that a checkpoint was made for."""
    text = metadata.get(IMAGE_SIZE_KEY, str(default))
    try:
        size = int(text)
        check_image_size(size)
    except ValueError as error:
        raise CheckpointError(
            f"'{path}' says that it is for an image size of '{text}', which cannot be used; choose one with "
            "--image-size (image_size=...)."
        ) from error
    return size


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k).float() for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except PermissionError as error:
        raise CheckpointError(
            f"'{path}' cannot be read: {error.strerror}. Change its permissions, or copy it."
        ) from error
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"'{path}' cannot be read as safetensors; it may be truncated or of another kind. Download or "
            "copy it again."
        ) from error
