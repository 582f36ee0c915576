"""`python -m napari_surgsam2` is the command line."""

from .cli import main

main()
