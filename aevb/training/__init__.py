"""The loop of training, of one run or of several as one program: steps, evaluation, checkpoints."""
