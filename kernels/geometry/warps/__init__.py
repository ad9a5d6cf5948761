"""Moving what pixels show: backward and forward warp, who is hidden, points followed through time."""
