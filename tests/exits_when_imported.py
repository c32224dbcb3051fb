"""A module as some projects have them: importing it without its environment ends the process."""

raise SystemExit("no environment")
