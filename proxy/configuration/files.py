"""Files that a user names: their text, or what is wrong with them in words.

Must not: know what is in a file. Invariant: a ConfigProblem names the file and the remedy, and no number of an error.
"""

from __future__ import annotations

from pathlib import Path

from proxy.configuration.config import ConfigProblem


def text_of(file: Path, otherwise: str = "") -> str:
    """The text of a TOML file. otherwise: what is said besides where there is none. Raises ConfigProblem."""
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        raise ConfigProblem(f"{file}: there is no such file; name one that is there{otherwise}") from None
    except IsADirectoryError:
        raise ConfigProblem(f"{file}: cannot be read: it is a directory; name the TOML file itself") from None
    except (OSError, ValueError) as error:  # no permission; a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise ConfigProblem(f"{file}: cannot be read: {why}; name a TOML file that may be read") from None
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigProblem(
            f"{file}: cannot be read: byte {error.start + 1} is no UTF-8, as of a binary file or another encoding; "
            "name a TOML file, or save it as UTF-8"
        ) from None
