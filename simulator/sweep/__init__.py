"""Studies of many cells: policies, configurations, loads and seeds, with paired intervals and one page of results."""
