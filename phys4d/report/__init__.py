"""Pages and pictures for people: report.html of a run, the contact sheet of a dataset, and the picture of the README.
"""
