"""Show and Tell: the CNN + LSTM captioner of 2015/2016 (Vinyals et al.), on the engine of everything else."""
