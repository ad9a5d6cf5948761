"""Rooms, lights, cameras and materials of scenes."""
