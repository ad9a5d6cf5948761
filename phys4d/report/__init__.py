"""What people look at: a run's report.html, the contact sheet of a dataset, and the pictures and tables in them."""
