"""The one exception for what a user can mend."""


class VoxgapError(ValueError):
    """Bad input, said in one line that names the file or field and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """
