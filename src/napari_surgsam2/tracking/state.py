"""Writing down where a tracker stands, so that another process goes on exactly there.

A state is a safetensors file: the memories that frames still to come may look at, in full precision, and
in its metadata everything else as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from napari_surgsam2.errors import OutputError
from napari_surgsam2.prompts import prompts_from_dict, prompts_to_dict

from .memory import FrameMemory
from .objects import FramePrompts, TrackedObject, Visit

if TYPE_CHECKING:
    from .propagation import NeededFrames
    from .tracker import Tracker

_KEY = "napari_surgsam2.tracking"
_VERSION = 3


def save_state(tracker: Tracker, position: Mapping[str, Any], needed: NeededFrames, path: Path) -> None:
    """Write the state of a tracker in the midst of a propagation; the file is replaced in one step.

    What was reduced to masks is not in it, but in the tracker's `overflow` file.

    Parameters
    ----------
    tracker : Tracker
        The tracker.
    position : mapping
        Where the propagation goes on: its `state`, now or a frame before.
    needed : NeededFrames
        What the rest of the propagation may look at.
    path : Path
        The file.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    objects = []
    for object_id in tracker.object_ids:
        obj = tracker._objects[object_id]
        memories = []
        for frame, memory in _memories(tracker, obj, needed):
            name = f"{object_id}/{frame}/{'prompted' if memory.prompted else 'tracked'}"
            tensors[f"{name}/logits"] = memory.logits.contiguous()
            tensors[f"{name}/pointer"] = memory.pointer.contiguous()
            if memory.features is not None:
                tensors[f"{name}/features"] = memory.features.contiguous()
            entry = {"name": name, "frame": frame, "score": memory.score, "iou": memory.iou}
            memories.append({**entry, "reverse": memory.reverse, "prompted": memory.prompted})
        objects.append(
            {
                "id": object_id,
                "prompts": {frame: _prompts_to_dict(p) for frame, p in obj.prompts.items()},
                "visited": {frame: visit.reverse for frame, visit in obj.visited.items()},
                "memories": memories,
            }
        )
    document = {"version": _VERSION, "propagation": dict(position), "objects": objects}
    partial = path.with_name(path.name + ".partial")
    try:
        save_file({k: v.clone() for k, v in tensors.items()}, partial, metadata={_KEY: json.dumps(document)})
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"Where the run stands cannot be written to '{path}' ({error}); free space and go on with "
            "--resume."
        ) from error


def load_state(tracker: Tracker, path: Path) -> dict[str, Any]:
    """Bring a new tracker of the same video, model and settings to where `save_state` wrote it down.

    Returns
    -------
    dict
        What `Tracker.propagate` takes as `resume`.

    Raises
    ------
    OutputError
        If the file is damaged or of another version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads(file.metadata()[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if document["version"] != _VERSION:
            raise KeyError(f"version {document['version']}")
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise OutputError(
            f"The state of the interrupted run, '{path}', cannot be read ({error}); start anew with --force."
        ) from error
    position = document["propagation"]
    _forget_ahead(tracker, position)
    for entry in document["objects"]:
        obj = TrackedObject(entry["id"])
        tracker._objects[obj.object_id] = obj
        obj.prompts = {int(frame): _prompts_from_dict(p) for frame, p in entry["prompts"].items()}
        for m in entry["memories"]:
            memory = FrameMemory(
                logits=tensors[f"{m['name']}/logits"],
                pointer=tensors[f"{m['name']}/pointer"],
                score=m["score"],
                reverse=m["reverse"],
                iou=m["iou"],
                features=tensors.get(f"{m['name']}/features"),
                prompted=m["prompted"],
            )
            if _is_ahead(position, m["frame"], memory):
                if not memory.prompted:
                    continue
                if (prompts := obj.prompts[m["frame"]]).only_negative:  # they waited to be tracked to
                    prompts.pending = True
                    continue
            if memory.prompted:
                obj.conditioning[m["frame"]] = memory
            else:
                tracker._store.restore(obj.object_id, m["frame"], memory)
        visited = {int(frame): reverse for frame, reverse in entry["visited"].items()}
        obj.visited = {f: Visit(r, obj.conditioning[f]) for f, r in visited.items() if f in obj.conditioning}
    state: dict[str, Any] = position
    return state


def _is_forward(position: Mapping[str, Any]) -> bool:
    return position["backward_from"] is None and position["next"] > position["start"]


def _is_ahead(position: Mapping[str, Any], frame: int, memory: FrameMemory) -> bool:
    """Whether a memory is of a frame that the pass broke off in: going on makes it again."""
    is_forward = _is_forward(position)
    reached = frame >= position["next"] if is_forward else frame <= position["next"]
    return reached and memory.reverse != is_forward


def _forget_ahead(tracker: Tracker, position: Mapping[str, Any]) -> None:
    """Forget masks that were kept after the state was written: going on makes them again."""
    frame = position["next"]
    is_forward = _is_forward(position)
    if is_forward:
        tracker._store.forget_ahead(frame, reverse=False)
    # The whole way back is still ahead of a pass that goes forward.
    tracker._store.forget_ahead(tracker.video.n_frames if is_forward else frame, reverse=True)


def _memories(
    tracker: Tracker, obj: TrackedObject, needed: NeededFrames
) -> Iterator[tuple[int, FrameMemory]]:
    """Yield the prompted memories, and of the tracked ones those that a frame to come may attend to."""
    yield from obj.conditioning.items()
    for frame in sorted(needed.attended(obj.object_id) | set(obj.prompts)):
        memory = tracker._store.get(obj.object_id, frame)
        if memory is not None:
            yield frame, memory


def _prompts_to_dict(prompts: FramePrompts) -> dict[str, Any]:
    flags = {"pending": prompts.pending, "mask_pending": prompts.mask_pending}
    return {"prompts": prompts_to_dict(prompts.all()), **flags}


def _prompts_from_dict(document: dict[str, Any]) -> FramePrompts:
    prompts = FramePrompts()
    for prompt in prompts_from_dict(document["prompts"]):
        prompts.add(prompt)
    prompts.pending, prompts.mask_pending = document["pending"], document["mask_pending"]
    return prompts
