"""The run folder: its layout, the types of its files, atomic writing and locking."""
