"""The report again: its ladder of tricks as runs, what they lack, how they are started, and what they say."""
