"""A reward that is any Python function, called as TRL calls its reward functions."""

import asyncio
import dataclasses
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from alignax.core import modules
from alignax.core.errors import BadInput
from alignax.core.records import Text
from alignax.generate.rewards import Reward


@dataclasses.dataclass(frozen=True, kw_only=True)
class Function(Reward):
    """A function (prompts, completions, **columns) -> one number or None for each completion.

    It is called with keyword arguments: `prompts`, `completions`, `completion_ids` (but of texts
    that no policy has drawn here) and the columns of the prompts' rows, each a list with one entry
    a completion. A function without `**kwargs` gets those that it names. Where a prompt is a
    conversation it comes as a list of `{"role": ..., "content": ...}`, and its completion as
    `[{"role": "assistant", "content": text}]`; else both are strings. What is async is waited for.
    So a reward function written for TRL's online trainers serves as it is, but for what a trainer
    of TRL gives beside columns (`trainer_state`, `log_metric`), and for what becomes of bad
    numbers: `Rewards` says that.

    Fields:
        function: the function, or where it is: "package.module:name" or "path/to/file.py:name".
            A name can be written on the command line, and a run that is resumed finds it again.
    """

    function: str | Callable[..., Any]

    @property
    def name(self) -> str:
        """The function's own name."""
        if isinstance(self.function, str):
            return self.function.rpartition(":")[2].rpartition(".")[2]
        return getattr(self.function, "__name__", type(self.function).__name__)

    def check(self) -> None:
        """Refuses what is not there, cannot be called, or needs what it will not be given."""
        self._callable()

    def fingerprint(self) -> str:
        """Of the file that holds it and of the neighbours that this imports.

        Of a function that is given itself, its own source: the file may be a config, in which
        other settings stand too. Empty where Python knows no source, as of what is typed in.
        """
        found = self._callable()
        try:
            if isinstance(self.function, str):
                name = self.function.rpartition(":")[0]
                path = name if name.endswith(".py") else inspect.getsourcefile(found)
                files = modules.with_neighbours(Path(path or "").expanduser())
                content = b"".join(file.read_bytes() for file in files)
            else:
                content = inspect.getsource(found).encode()
        except (OSError, TypeError):
            return ""
        return hashlib.sha256(content).hexdigest()

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Sequence[Any],
    ) -> Any:
        """What the function gives; whether that is a list of numbers, `Rewards` looks.

        Raises:
            BadInput: the function is not there, or asks for an argument that is no column, or for
                token ids where there are none.
        """
        function = self._callable()
        arguments: dict[str, Any] = {
            **columns,
            "prompts": [_as_rows(prompt) for prompt in prompts],
            "completions": [
                text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
                for prompt, text in zip(prompts, completions, strict=True)
            ],
        }
        if completion_ids is not None:
            arguments["completion_ids"] = [list(ids) for ids in completion_ids]
        named, all_others = _parameters(function)
        missing = [name for name, needed in named.items() if needed and name not in arguments]
        if missing:
            ids = "completions" if completion_ids is None else "completions, completion_ids"
            remedy = "Add the column to the data, or give the argument a default."
            if "completion_ids" in missing:
                remedy = "Texts of a file have no token ids: count in completions, or give the "
                remedy += "argument a default."
            raise BadInput(
                f"columns for the arguments of {self.name}: {', '.join(missing)}",
                f"prompts, {ids} and the columns {', '.join(sorted(columns)) or '(none)'}",
                remedy,
                where=f"rewards: {self.name}",
            )
        if not all_others:
            arguments = {name: x for name, x in arguments.items() if name in named}
        found = function(**arguments)
        return _awaited(found) if inspect.isawaitable(found) else found

    def _callable(self) -> Callable[..., Any]:
        found = self.function
        if isinstance(found, str):
            if _is_model(found):
                raise BadInput(
                    "a module and a name in it",
                    repr(found),
                    "A reward model is a reward of another kind, which a config gives: "
                    f'ModelReward(directory="{found}"). configs/grpo_reward_model.py shows one.',
                    where=self._where,
                )
            found = modules.load(found, self._where)
        if not callable(found):
            raise BadInput(
                "a function that returns a list of numbers",
                f"{found!r}",
                "Give a function.",
                where=self._where,
            )
        return found

    @property
    def _where(self) -> str:
        return f"rewards: {self.function if isinstance(self.function, str) else self.name}"


def _is_model(place: str) -> bool:
    """Whether this names a model's directory, or one of the hub, and no function."""
    return ":" not in place and not place.endswith(".py") and (
        "/" in place or Path(place).expanduser().is_dir()
    )  # fmt: skip


def _as_rows(prompt: Text) -> str | list[dict[str, Any]]:
    return prompt if isinstance(prompt, str) else [turn.as_dict() for turn in prompt]


def _parameters(function: Callable[..., Any]) -> tuple[dict[str, bool], bool]:
    """The names that can be given, and whether each must be; and whether any others can be."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some that are written in C do not say
        return {}, True
    named = {
        p.name: p.default is p.empty
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _awaited(given: Awaitable[Any]) -> Any:
    """What an async function gives in the end."""

    async def wait() -> Any:
        return await given

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with ThreadPoolExecutor(1) as other:  # a notebook's own loop goes on in this thread
        return other.submit(lambda: asyncio.run(wait())).result()
