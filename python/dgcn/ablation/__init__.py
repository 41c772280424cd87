"""The ablations of the paper: the rows of its tables, their runs, and a table of what they gave."""
