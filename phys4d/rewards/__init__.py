"""Rewards for the reinforcement phase: what a generated clip is worth against the simulator's truth."""
