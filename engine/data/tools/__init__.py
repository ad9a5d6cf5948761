"""What is done with whole datasets: checks, counts, copies, writing by ranks."""
