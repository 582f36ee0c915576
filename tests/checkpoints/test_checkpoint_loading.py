"""From checkpoint files to networks."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from napari_surgsam2.checkpoints import load_model, registry, resolve_device
from napari_surgsam2.checkpoints.loading import CONFIG_KEY, IMAGE_SIZE_KEY
from napari_surgsam2.errors import CheckpointError, DeviceError, UsageError
from napari_surgsam2.network import Sam2Network, config, config_for, config_from_state_dict
from tests.helpers.weights import TINY_CONFIG, rule_network

PUBLISHED = [f"{version}_{trunk}" for version in ("sam2", "sam2.1") for trunk in config.TRUNKS]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in rule_network().state_dict().items()}


@pytest.fixture
def tiny_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tiny network be told from its weights as the published ones are."""
    monkeypatch.setitem(config.TRUNKS, "tiny_test", TINY_CONFIG.trunk)


def same_parameters(network: Sam2Network, state: dict[str, torch.Tensor]) -> bool:
    loaded = network.state_dict()
    return loaded.keys() == state.keys() and all(torch.equal(loaded[k], v) for k, v in state.items())


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_a_published_architecture_is_told_from_its_weights(architecture: str) -> None:
    with torch.device("meta"):
        weights = Sam2Network(config_for(architecture)).state_dict()

    assert config_from_state_dict(weights) == config_for(architecture)


def test_every_model_to_download_has_a_published_architecture() -> None:
    assert {e.architecture for e in registry().values() if not e.built_in} == set(PUBLISHED)


def test_the_built_in_model_loads_and_is_small() -> None:
    model = load_model("nano", device="cpu")

    assert model.image_size == registry()["nano"].image_size == 320
    assert model.parameters < 10e6
    assert all(torch.isfinite(p).all() for p in model.network.state_dict().values())


@pytest.mark.parametrize(
    "layout", ["model.pt", "bare.pth", "UPPER.PT", "bare.safetensors", "model_and_more.pt"]
)
@pytest.mark.usefixtures("tiny_is_published")
def test_all_layouts_load(layout: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / layout
    if layout.endswith(".safetensors"):
        save_file(state, path)
    elif layout == "model_and_more.pt":
        torch.save({"model": state, "epoch": 3, "loss": [0.5]}, path)
    else:
        torch.save({"model": state} if layout == "model.pt" else state, path)

    model = load_model(path, device="cpu")

    assert model.network.config == TINY_CONFIG
    assert same_parameters(model.network, state)
    assert not model.network.training
    assert (model.image_size, model.path, model.device) == (1024, path, torch.device("cpu"))


@pytest.mark.usefixtures("tiny_is_published")
def test_sam_2_is_told_from_sam_2_1(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    older = {
        k: v for k, v in state.items() if not k.startswith(("no_obj_embed_spatial", "obj_ptr_tpos_proj"))
    }
    torch.save({"model": older}, tmp_path / "older.pt")

    found = load_model(tmp_path / "older.pt", device="cpu").network.config

    assert (found.no_object_memory, found.temporal_pointers) == (False, False)


def test_a_checkpoint_says_what_it_is_and_for_which_size(tiny_checkpoint: Path) -> None:
    assert load_model(tiny_checkpoint, device="cpu").image_size == 128
    assert load_model(str(tiny_checkpoint), device="cpu", image_size=256).image_size == 256


def test_half_precision_weights_are_computed_with_in_full(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(
        {k: v.half() for k, v in state.items()},
        tmp_path / "half.safetensors",
        {CONFIG_KEY: TINY_CONFIG.to_json()},
    )

    network = load_model(tmp_path / "half.safetensors", device="cpu").network

    assert {p.dtype for p in network.parameters()} == {torch.float32}


# Files that are no checkpoint of ours

BAD_CONTENT = {
    "resnet": (
        {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(10)},
        "conv1.weight, fc.bias",
    ),
    "no parameters": ({"model": {}}, "it has no parameters"),
    "numbers": ({"model": {"a": 1}}, "holds no parameters"),
    "a list": ([1, 2], "holds no parameters"),
    "a module": (torch.nn.Linear(2, 2), "can be read safely"),
    "odd shapes": (
        {
            "image_encoder.trunk.patch_embed.proj.weight": torch.zeros(96),
            "no_mem_embed": torch.zeros(()),
            "maskmem_tpos_enc": torch.zeros(3),
        },
        "is not a checkpoint of SAM 2",
    ),
}


@pytest.mark.parametrize("case", BAD_CONTENT)
def test_another_content_is_refused(case: str, tmp_path: Path) -> None:
    content, message = BAD_CONTENT[case]
    torch.save(content, tmp_path / "x.pt")

    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "x.pt", device="cpu")


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / "x.pt").write_bytes(pickle.dumps(Malicious()))
    torch.save({"model": Malicious()}, tmp_path / "y.pt")

    for name in ("x.pt", "y.pt"):
        with pytest.raises(CheckpointError, match="can be read safely"):
            load_model(tmp_path / name, device="cpu")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x80\x04", b"PK\x03\x04", b"<html>", b"\xff" * 64],
    ids=["empty", "text", "pickle", "zip", "page", "noise"],
)
def test_a_file_of_another_kind_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"can(not)? be read|holds no parameters"):
        load_model(path, device="cpu")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(
    suffix: str, kept: float, state: dict[str, torch.Tensor], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".pt":
        torch.save({"model": state}, path)
    else:
        path.write_bytes(tiny_checkpoint.read_bytes())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])

    with pytest.raises(CheckpointError, match="may be truncated"):
        load_model(path, device="cpu")


def test_a_folder_and_a_missing_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(CheckpointError, match="is a folder"):
        load_model(tmp_path / "folder.pt", device="cpu")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*gone\.pt"):
        load_model(tmp_path / "gone.pt", device="cpu")


def test_parameters_must_fit_exactly(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    first, second, *_ = state
    cases = {
        f"{first} is missing": {k: v for k, v in state.items() if k != first},
        "foo is not one of its parameters": {**state, "foo": torch.zeros(1)},
        f"{second} has shape (5, 5), not": {**state, second: torch.zeros(5, 5)},
        "and 4 more": dict(list(state.items())[7:]),
    }
    for message, weights in cases.items():
        save_file(weights, tmp_path / "x.safetensors", metadata={CONFIG_KEY: TINY_CONFIG.to_json()})
        with pytest.raises(CheckpointError) as caught:
            load_model(tmp_path / "x.safetensors", device="cpu")
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        (CONFIG_KEY, "{not json", "describes a network that cannot be made"),
        (CONFIG_KEY, '{"a": 1}', "describes a network that cannot be made"),
        (CONFIG_KEY, "[1]", "describes a network that cannot be made"),
        (CONFIG_KEY, '{"trunk": {}, "dim": -4}', "describes a network that cannot be made"),
        (IMAGE_SIZE_KEY, "abc", "'abc', which cannot be used; choose one with --image-size"),
        (IMAGE_SIZE_KEY, "100", "'100', which cannot be used"),
    ],
)
def test_wrong_metadata_are_told(key: str, text: str, message: str, state, tmp_path: Path) -> None:
    metadata = {CONFIG_KEY: TINY_CONFIG.to_json(), key: text}
    save_file(state, tmp_path / "x.safetensors", metadata=metadata)

    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "x.safetensors", device="cpu")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no model 'sam3'.*sam2\.1_hiera_tiny.*\.safetensors"):
        load_model("sam3", device="cpu")


@pytest.mark.parametrize("size", [0, -64, 16, 100, 5000])
def test_the_image_size_is_checked_before_anything_is_read(size: int) -> None:
    with pytest.raises(UsageError, match=f"image size is {size}; it must be a multiple of 32"):
        load_model("not there.pt", device="cpu", image_size=size)


# Devices


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0", "cuda:1", "cpu"])
def test_devices_that_are_there(device: str) -> None:
    assert resolve_device(device) == torch.device("cuda" if device == "auto" else device)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_too_many() -> None:
    with pytest.raises(DeviceError, match="'cuda:2' is not there; this machine has: cpu, cuda:0, cuda:1"):
        resolve_device("cuda:2")


@pytest.mark.usefixtures("only_cpu")
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "this machine has: cpu. .*install the build of PyTorch"),
        ("mps", "'mps' is not there; this machine has: cpu"),
        ("cpu:3", "'cpu:3' is not there"),
        ("foo", "'foo'; it must be auto, cpu, cuda, cuda:N or mps"),
        ("cuda:x", "'cuda:x'; it must be"),
        ("meta", "'meta'; it must be"),
        ("", "''; it must be"),
    ],
)
def test_devices_that_are_not_there(device: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        resolve_device(device)


@pytest.mark.usefixtures("only_cpu")
def test_without_a_gpu_auto_is_the_cpu() -> None:
    assert resolve_device("auto") == resolve_device(torch.device("cpu")) == torch.device("cpu")
