"""A model directory as files: safetensors read in parts, and a whole export written or none.

Nothing here knows what a tensor means. `pretrained` does, and `gguf`.
"""

import contextlib
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from alignax.core.errors import BadInput

DTYPES: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

ADAPTER = "adapter_config.json"  # what a directory has in place of config.json that holds one
TEMPLATE = "chat_template.jinja"  # which counts before what tokenizer_config.json says
OPTIONS = "chat_template_kwargs.json"  # what an adapter's chat template is told
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE,
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
# What an earlier export, or a download of one, may hold. Anything else is somebody's work.
_REPLACEABLE = (
    *TOKENIZER_FILES,
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    ADAPTER,
    OPTIONS,
    "adapter_model.safetensors",
)
_SHARD = re.compile(r"[\w.-]+\.safetensors")
_MARK = "<!-- Written by alignax; unchanged while its SHA-256 above this line is {}. -->\n"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(
            "a JSON object", str(error), "Fetch or write the file again.", where=str(path)
        ) from error
    if not isinstance(found, dict):
        remedy = "Fetch or write the file again."
        raise BadInput("a JSON object", type(found).__name__, remedy, where=str(path))
    return found


def write_json(path: Path, contents: Mapping[str, Any]) -> None:
    """Writes an object as transformers does: two spaces, sorted keys, a last newline."""
    text = json.dumps(contents, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def marked(card: str) -> str:
    """A README.md with a last line that tells whether somebody has changed it since."""
    digest = hashlib.sha256(card.encode()).hexdigest()
    return f"{card}\n{_MARK.format(digest)}"


def _is_ours(path: Path) -> bool:
    """Whether a README.md was written by an export and by nobody since."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return text == marked(text[: max(text.rfind("\n<!-- "), 0)])


class Tensor(NamedTuple):
    """What a safetensors file says of one tensor. `dtype` is its own name for it, such as BF16."""

    file: str
    shape: tuple[int, ...]
    dtype: str


class Checkpoint:
    """The tensors of a directory: listed at once, read in parts as they are asked for."""

    def __init__(self, directory: Path, opened: Mapping[str, Any]):
        self.directory, self._opened = directory, opened
        self._added: dict[str, np.ndarray] = {}
        self._stored: dict[str, str] = {}  # what a tensor that was renamed is called in its file
        self.tensors: dict[str, Tensor] = {}
        for file, handle in opened.items():
            for name in handle.keys():  # noqa: SIM118, a handle is not a mapping
                part = handle.get_slice(name)
                self.tensors[name] = Tensor(file, tuple(part.get_shape()), part.get_dtype())

    def fetch(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Part of a tensor. Only its bytes are read."""
        if name in self._added:
            return self._added[name][index]
        handle = self._opened[self.tensors[name].file]
        return handle.get_slice(self._stored.get(name, name))[index]

    def add(self, name: str, tensor: Float[np.ndarray, "..."]) -> None:
        """Holds a further tensor, float32 and in no file, to be fetched as the others are."""
        self._added[name] = tensor
        self.tensors[name] = Tensor("added", tensor.shape, "F32")

    def rename(self, names: Mapping[str, str]) -> None:
        """Gives tensors the names that a later layout has for them. Those not named keep theirs."""
        self.tensors = {names.get(name, name): found for name, found in self.tensors.items()}
        self._stored |= {new: old for old, new in names.items()}

    def dtype(self, dropped: tuple[str, ...] = ()) -> str | None:
        """The name in `DTYPES` that most of the numbers have; None where no tensor has one.

        Args:
            dropped: endings of tensors that are no parameters. A mask may be larger than all else.
        """
        count: dict[str, int] = {}
        for called, tensor in self.tensors.items():
            name = _STORED.get(tensor.dtype)
            if name is not None and not called.endswith(dropped):
                count[name] = count.get(name, 0) + math.prod(tensor.shape)
        return max(count, key=lambda name: count[name], default=None)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises BadInput unless the tensor is there, of that shape and of a float dtype."""
        found = self.tensors[name]
        where = f"{self.directory / found.file}: {name}"
        remedy = "The weights do not belong to this config.json; take both from one source."
        if found.shape != shape:
            raise BadInput(f"the shape {list(shape)}", f"{list(found.shape)}", remedy, where=where)
        if found.dtype not in _STORED:
            known = ", ".join(_STORED)
            remedy = "Choose weights that are not quantised."
            raise BadInput(f"a tensor of {known}", found.dtype, remedy, where=where)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory, in the order of their names.

    Raises:
        BadInput: there are none, or the index names one that is not there.
    """
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]  # an index beside it is an earlier model's; transformers passes it over too
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BadInput("a weight_map", "none", "Fetch the index file again.", where=str(index))
        for name in weight_map.values():
            if not isinstance(name, str) or not _SHARD.fullmatch(name):
                remedy = "Fetch the index file again, from whom you trust."
                expected = "names of safetensors files beside the index"
                raise BadInput(expected, f"{name!r:.80}", remedy, where=str(index))
        files = [directory / name for name in sorted(set(weight_map.values()))]
        for file in files:
            if not file.is_file():
                remedy = "Fetch the missing file; the download was perhaps cut short."
                raise BadInput(f"the shard {file.name}", "no such file", remedy, where=str(index))
        return files
    others = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".gguf"))
    remedy = "Fetch the weights in the safetensors format."
    if any(name.endswith((".bin", ".pt")) for name in others):
        remedy = (
            "Convert them once, where torch is installed: AutoModelForCausalLM.from_pretrained("
            f"{str(directory)!r}).save_pretrained(new directory), with the tokenizer's files."
        )
    elif others:
        remedy = "Convert the file with alignax.models.gguf.convert."
    raise BadInput(
        "model.safetensors, or shards and model.safetensors.index.json",
        ", ".join(others) or "neither",
        remedy,
        where=str(directory),
    )


@contextlib.contextmanager
def open_checkpoint(directory: Path) -> Iterator[Checkpoint]:
    """Opens a directory's safetensors files. Tensors are read while the block lasts."""
    with contextlib.ExitStack() as stack:
        opened = {}
        for file in weight_files(directory):
            try:
                opened[file.name] = stack.enter_context(safe_open(file, framework="np"))
            except (OSError, SafetensorError) as error:
                raise BadInput(
                    "a complete safetensors file",
                    f"{file.stat().st_size} bytes that cannot be read as one ({error})",
                    "Fetch the file again; the download was perhaps cut short.",
                    where=str(file),
                ) from error
        yield Checkpoint(directory, opened)


def write_weights(
    directory: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    dtype: str,
    max_shard_bytes: int,
) -> None:
    """Writes model.safetensors, or shards and their index where one file would be too large.

    Args:
        shapes: of every tensor.
        tensors: the same names in the same order; one shard of them is held at a time.
        max_shard_bytes: a shard is larger only where a single tensor is.
    """
    size = DTYPES[dtype].itemsize
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, shape in shapes.items():
        needed = math.prod(shape) * size
        if needed > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= needed
    if len(shards) == 1:
        files = ["model.safetensors"]
    else:
        files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        weight_map = {n: file for file, names in zip(files, shards, strict=True) for n in names}
        total = sum(math.prod(shape) for shape in shapes.values()) * size
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(directory / "model.safetensors.index.json", index)
    left = iter(tensors)
    for file, names in zip(files, shards, strict=True):
        shard = {}
        for expected in names:
            name, tensor = next(left)
            assert (name, tensor.shape) == (expected, shapes[expected]), (name, tensor.shape)
            # safetensors writes the memory as it lies: a transposed view would be stored wrong.
            shard[name] = np.ascontiguousarray(_cast(name, tensor, dtype))
        save_file(shard, directory / file, metadata={"format": "pt"})
        # It also makes the file for its owner alone; give it the mode of any other new file.
        (directory / file).chmod(0o666 & directory.stat().st_mode)


def _cast(name: str, tensor: np.ndarray, dtype: str) -> np.ndarray:
    try:
        with np.errstate(over="raise"):
            return tensor.astype(DTYPES[dtype])
    except FloatingPointError as error:
        largest = f"numbers up to {np.abs(tensor).max():.3g}"
        remedy = "Save in bfloat16 or float32."
        raise BadInput(f"numbers within {dtype}", largest, remedy, where=name) from error


@contextlib.contextmanager
def replacing(directory: Path, *, card: bool = False) -> Iterator[Path]:
    """A new directory beside `directory` that takes its place when the block has ended well.

    Args:
        card: whether an earlier export has a README.md of ours: its other files are those of any
            model.

    Raises:
        BadInput: something else than an export is there already, or it cannot be written.
    """
    directory = directory.expanduser().resolve()
    new = directory.with_name(f".{directory.name}.new")
    old = directory.with_name(f".{directory.name}.old")
    try:
        if old.exists() and not directory.exists():
            old.rename(directory)  # an earlier call ended between its two renames
        _refuse_foreign(directory, card)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        if directory.exists():
            shutil.rmtree(old, ignore_errors=True)
            directory.rename(old)
        new.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        remedy = "Free space there, or choose another directory."
        raise BadInput(
            "a directory that can be written", str(error), remedy, where=str(directory)
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _refuse_foreign(directory: Path, card: bool) -> None:
    if not directory.exists():
        return
    found = sorted(directory.iterdir()) if directory.is_dir() else [directory]
    ours = lambda p: p.name == "README.md" and _is_ours(p)  # noqa: E731
    replaceable = lambda p: any(p.match(pattern) for pattern in _REPLACEABLE)  # noqa: E731
    foreign = [p.name for p in found if not replaceable(p) and not ours(p)]
    if foreign:
        raise BadInput(
            "a new or empty directory, or an earlier export",
            f"{len(foreign)} other files, {', '.join(foreign[:3])} among them",
            "Choose another directory; an export replaces the whole of it.",
            where=str(directory),
        )
    if card and found and not any(map(ours, found)):
        raise BadInput(
            "a new or empty directory, or an earlier export",
            "a model without the README.md that an export has",
            "Choose another directory; an export replaces the whole of it.",
            where=str(directory),
        )
