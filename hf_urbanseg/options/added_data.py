"""The option of a run that trains on further data sets, too."""

from dataclasses import dataclass

from hf_urbanseg.options.fields import Options, option


@dataclass
class AddedDataArguments(Options):
    """Further data sets; beside `DataArguments`, because what is measured is the main data alone."""

    add_data: list[str] = option(
        [],
        "Train on further data sets, too: folder, folder:label_space, folder:share or folder:label_space:share each, "
        "also of a Hub id. Of each its train split, classes by name, the rest void. Share of the training samples; "
        "default: as many as of the main data.",
    )
