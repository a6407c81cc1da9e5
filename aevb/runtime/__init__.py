"""The process and its machine: devices, signals, locks, versions, checksums."""
