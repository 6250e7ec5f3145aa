"""Data sets that have a name and not a path: TensorFlow Datasets and the Hugging Face hub.

Each library is imported where it is used, so that only those who name such a source need it.
"""

import contextlib
import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignax.core.errors import BadInput
from alignax.data.local_files import refuse_saved

Row = dict[str, Any]


def tfds_builder(name: str) -> Any:
    """The builder of a data set of TFDS, set to the format that is read without TensorFlow."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, file_format="array_record")
    except ValueError as error:
        raise BadInput(
            "a data set of TensorFlow Datasets",
            name,
            f"{str(error).splitlines()[0]} See tensorflow.org/datasets/catalog.",
            where=f"tfds:{name}",
        ) from error


def tfds_rows(name: str, split: str) -> Iterator[tuple[Row, str]]:
    """Rows of a TFDS data set, fetched and written to disk first where they are not there yet."""
    builder = tfds_builder(name)
    with quiet_tfds():
        builder.download_and_prepare()
    if split not in builder.info.splits:
        raise BadInput(
            f"one of the splits {', '.join(builder.info.splits)}",
            split,
            "Name another split.",
            where=f"tfds:{name}",
        )
    for number, row in enumerate(builder.as_data_source(split=split), start=1):
        yield _plain(row), f"tfds:{name}:{number}"


def _plain(value: Any) -> Any:
    """What TFDS gives, as JSON would hold it: text for bytes, lists for arrays."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Mapping):
        value = {key: _plain(part) for key, part in value.items()}
        # TFDS keeps a list of {role, content} as {role: list, content: list}.
        if value.keys() == {"role", "content"} and isinstance(value["role"], list):
            pairs = zip(value["role"], value["content"], strict=True)
            return [{"role": role, "content": content} for role, content in pairs]
        return value
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value


def hf_data(name: str, split: str) -> Any:
    """A data set of the hub, or a folder here, as the package `datasets` holds it.

    Raises:
        BadInput: no such package or name; whatever the package says of the data.
    """
    asked = _asked(name, split)
    try:
        import datasets
    except ImportError as error:
        raise BadInput(
            "the package datasets, which reads the hub",
            "no such package",
            "pip install -e '.[hub]' in the clone.",
            where=f"hf:{name}",
        ) from error
    try:
        return datasets.load_dataset(*asked, split=split)
    except Exception as error:  # of readers of many formats and of the transport, in any family
        raise BadInput(
            f"a data set of the hub with the split {split}",
            _causes(error),
            "Check name and split; hf:owner/name/config names a configuration.",
            where=f"hf:{name}",
        ) from error


def _asked(name: str, split: str) -> list[str]:
    """A folder that is here whole; else owner and name in one, and a configuration."""
    with contextlib.suppress(OSError, RuntimeError):  # a name that no path can have is none
        folder = Path(name).expanduser()
        if name and folder.is_dir():
            if (folder / "state.json").is_file():
                refuse_saved(folder, split)
            return [str(folder)]
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*(/[^/]+)?)?", name):
        raise BadInput(
            "hf:owner/name, hf:owner/name/config, or hf: and a folder that is here",
            name or "no name",
            "Check the name, or the path.",
            where=f"hf:{name}",
        )
    parts = name.split("/")
    return ["/".join(parts[:2]), *parts[2:]]


def _causes(error: BaseException | None) -> str:
    """What an error says, and what those said that it came from: the last knows the place."""
    said = []
    while error is not None:
        kind, first = type(error).__name__, str(error).strip().partition("\n")[0].rstrip(".: ")
        if not first or not isinstance(error, OSError | ValueError | RuntimeError):
            first = f"{kind}: {first}" if first else kind
        said.append(textwrap.shorten(first, 200))
        error = error.__cause__
    return ": ".join(dict.fromkeys(said))


def hf_rows(name: str, split: str) -> Iterator[tuple[Row, str]]:
    """Rows of a data set of the hub, or of a folder that `datasets` reads."""
    for number, row in enumerate(hf_data(name, split), start=1):
        yield dict(row), f"hf:{name}:{number}"


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Keeps the progress bars and banners of TFDS off the screen."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import tqdm_utils

    active = tqdm_utils._active
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(active)
