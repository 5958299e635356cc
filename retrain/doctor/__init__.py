"""What is really there, and whether a config would run on it: checks, each with a verdict and one thing to do.

    machine     Python, packages, torch and its devices, cores, memory, disk, terminal, clock
    services    the tracker, the hub and its cache
    config      the model, its memory, where the run would write
    data        problems, their lengths, the reward on gold and on shuffled answers
    probe       the model loaded: 64 prompts sampled, the ratio contract, the time of a step

`table` lists them, one line a check; a check is a function that returns what it found. Nothing is written to disk but
what the caches of libraries do, and nothing is started that outlives a check.
"""
