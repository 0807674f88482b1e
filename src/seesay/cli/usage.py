"""One line for a command line that cannot be parsed: what is wrong, and what was probably meant."""

from difflib import get_close_matches
from itertools import chain

from cyclopts import CycloptsError, MissingArgumentError, UnknownOptionError

OTHER_NAMES = {
    "--alpha": "--lora-alpha",
    "--alt-text": "--style",
    "--base-url": "--endpoint",
    "--batch": "--batch-captions",
    "--batch-size": "--batch-captions",
    "--beams": "--beam-size",
    "--checkpoint": "--model",
    "--force": "--overwrite",
    "--gpus": "--devices",
    "--lang": "--language",
    "--lr": "--learning-rate",
    "--max-new-tokens": "--max-length",
    "--max-tokens": "--max-length",
    "--num-beams": "--beam-size",
    "--num-epochs": "--epochs",
    "--output": "--out",
    "--output-dir": "--out",
    "--rank": "--lora-rank",
    "--run": "--model",
    "--split-ratio": "--split-fractions",
    "--url": "--endpoint",
    "-o": "--out",
}
"""Names of options in other programs -> our name. Close spellings need no entry."""


def describe(error: CycloptsError) -> str:
    """Return the line for an error of parsing."""
    command = " ".join(("seesay", *(error.command_chain or ())))
    if isinstance(error, UnknownOptionError):
        name = (error.token.keyword or error.token.value).partition("=")[0]
        known = list(chain.from_iterable(each.names for each in error.argument_collection if each.parse))
        other = OTHER_NAMES.get(name)
        bare = {each.lstrip("-"): each for each in known}
        close = [bare[each] for each in get_close_matches(name.lstrip("-"), bare, n=1, cutoff=0.7)]
        meant = [other] if other in known else close
        hint = f"did you mean {meant[0]}?" if meant else f"{command} --help-all lists the options"
        return f"unknown option {name} of {command}; {hint}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        if error.argument.required and name not in (error.root_input_tokens or ()):
            return f"{name.lstrip('-').upper()} is missing; see {command} --help"
        return f"{name} needs a value; see {command} --help"
    text = str(error)
    return f"{text[:1].lower()}{text[1:]}"
