"""What a run leaves on disk: checkpoints, its log of metrics, and the records of trackers."""
