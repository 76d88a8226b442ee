"""Learning from a reward that can be checked: GRPO (TRL's trainer), and rejection sampling (LEAP's own)."""
