"""Shows a report to people: the page, and the tables in a terminal. Knows reports only."""
