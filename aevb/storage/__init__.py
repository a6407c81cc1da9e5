"""The files of a run: checkpoints, the metrics log, and the records of trackers."""
