"""The napari plugin: what the manifest `napari.yaml` contributes. Only here may napari or Qt be imported."""
