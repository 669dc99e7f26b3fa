"""The pinned image: built, looked at, and worked in, with Docker, Podman or Apptainer."""
