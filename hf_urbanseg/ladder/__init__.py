"""The report's ladder of tricks: its runs, what they lack, how they are started, and what their numbers mean."""
