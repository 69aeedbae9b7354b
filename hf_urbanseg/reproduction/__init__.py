"""The report again: its ladder of tricks and its Table 1 as runs, what they lack, how they start, what they say."""
