"""MuJoCo scenes of any kind: `mjcf` writes a model, `thing` says what of it is seen, `play` runs it, `scene` is one."""
