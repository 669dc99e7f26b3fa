"""The pinned container image: build it, inspect it, and run commands in it, with Docker, Podman or Apptainer."""
