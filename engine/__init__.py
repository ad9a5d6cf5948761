"""The stage engine: runs training objectives on 1..N processes and feeds them clips; independent of models and physics.
"""
