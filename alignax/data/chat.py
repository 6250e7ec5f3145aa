"""From conversations to text, through the tokenizer's own chat template, and to token ids.

Which part of a response the assistant said is found by rendering the conversation turn by turn,
never by searching for its content: templates strip, indent and quote. Prompt and response are
tokenised apart, as they are when the response is sampled (`joining`).
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from transformers import PreTrainedTokenizerBase

from alignax.core.errors import BadInput
from alignax.core.records import Message, Text
from alignax.data import joining, rendering, templates, unwritten
from alignax.data.bad_rows import BadRow
from alignax.data.tokenizers import encode, opening


class Segment(NamedTuple):
    """A piece of a response. What is scored is what the assistant said, end-of-turn included."""

    text: str
    scored: bool


class Rendered(NamedTuple):
    """The text of a prompt, and each response to it in pieces."""

    prompt: str
    responses: tuple[tuple[Segment, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renderer:
    """Renders prompts and responses for one tokenizer.

    In "chat" mode a plain string is one turn: of the user as a prompt, of the assistant as a
    response. In "none" mode strings are taken as they stand, the tokenizer's own special tokens
    go before a prompt and its eos after a response, and conversations are refused.

    Fields:
        tokenizer: a Hugging Face tokenizer.
        template: whether the chat template is used.
        chat_template: a template that replaces the tokenizer's: a name of `templates.NAMED`, the
            path of a Jinja file, or its text.
        chat_template_kwargs: what the template is told beside the conversation, such as
            `enable_thinking`.
        extra_end_ids: further ids that end a turn, as in a model's generation config.

    Raises:
        BadInput: no template, one that cannot be rendered or that writes BOS twice in a row, or
            no token that ends a turn.
    """

    tokenizer: PreTrainedTokenizerBase
    template: Literal["chat", "none"] = "chat"
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    extra_end_ids: tuple[int, ...] = ()

    def __post_init__(self):
        if self.template == "chat":
            self._rendering.check()
        if not self.end_ids:
            raise BadInput(
                "a token that ends a turn",
                "a tokenizer without eos_token and a template that closes turns with none",
                "Set eos_token in tokenizer_config.json.",
            )

    def prompt(self, prompt: Text, origin: str = "") -> str:
        """The text before a response, the header of the assistant's turn included.

        Example (ChatML): user "Hi" -> "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n"
        """
        if self.template == "none":
            return self._plain_prompt(prompt, origin)
        turns = self._turns(prompt, "user", origin)
        text = self._rendering.render(turns, origin, ask=True)
        unwritten.check(self._rendering, turns, 0, text, origin, ask=True)
        return text

    def forgotten(self, prompt: Text) -> int:
        """How many turns of a prompt have thoughts that the chat template leaves out."""
        if self.template == "none" or isinstance(prompt, str):
            return 0
        return unwritten.forgotten(self._rendering, prompt, "")

    def before_header(self, turns: tuple[Message, ...]) -> str:
        """A conversation without the header of an answer; the template may write more after it."""
        return self._rendering.render(turns, "", ask=False)

    def render(
        self,
        prompt: Text,
        responses: Sequence[Text],
        origin: str = "",
        *,
        cut: Collection[Text] = (),
    ) -> Rendered:
        """The text of a prompt and of the responses that go on from it.

        A response ends with the end-of-turn token of its last assistant turn; what follows that
        has nothing to be scored and is left out. One of `cut` broke off: it ends with what its
        last assistant turn said.

        Example (ChatML): assistant "A", user "B", assistant "C"
            scored  A<|im_end|>
            not     NEWLINE<|im_start|>user NEWLINE B<|im_end|>NEWLINE<|im_start|>assistant NEWLINE
            scored  C<|im_end|>

        Raises:
            BadRow: the template refuses a conversation, or writes it otherwise than its prompt.
        """
        text = self.prompt(prompt, origin)
        if self.template == "none":
            texts = [self._plain(response, origin) for response in responses]
            for response in texts:
                self._check_plain_response(response, origin)
            pieces = ((Segment(response, True),) for response in texts)
        else:
            before = self._turns(prompt, "user", origin)
            pieces = (
                self._segments(
                    text, before, self._turns(x, "assistant", origin), origin, cut=x in cut
                )
                for x in responses
            )
        return Rendered(text, tuple(pieces))

    def prompt_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered prompts, BOS included where one belongs, and never twice."""
        start = self._opening if self.template == "none" else []
        ids = encode(self.tokenizer, list(texts))
        return [row if row[: len(start)] == start else start + row for row in ids]

    def continuation_ids(
        self, texts: Sequence[str], after: Sequence[str] | None = None
    ) -> list[list[int]]:
        """Token ids of texts that go on where another ended, without BOS.

        Args:
            after: the text that each goes on from, of which the end is enough; the header of an
                answer where None.
        """
        if self.template == "none":
            after = [""] * len(texts)
        elif after is None:
            after = [self._rendering.header] * len(texts)
        return joining.continuation_ids(self.tokenizer, self._special, texts, after)

    def texts(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Sampled responses as texts; in "none" mode a space that one begins with is kept."""
        plain = self.template == "none"
        return joining.continuation_texts(self.tokenizer, ids, self.end_ids, first_space=plain)

    @property
    def text(self) -> str | None:
        """The text of the chat template that is used; None in "none" mode."""
        return None if self.template == "none" else self._rendering.text

    @property
    def dated(self) -> bool:
        """Whether the chat template writes the day's date, so that prompts change with it."""
        return self.template == "chat" and self._rendering.dated

    @functools.cached_property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a turn."""
        ids = {*self.extra_end_ids, self._eos_id, self.closing_id}
        return frozenset(i for i in ids if i is not None)

    @functools.cached_property
    def closing_id(self) -> int | None:
        """The id that the chat template closes a turn with, if it does."""
        token = self._rendering.closing.token if self.template == "chat" else None
        return cast(int, self.tokenizer.convert_tokens_to_ids(token)) if token else None

    @functools.cached_property
    def end_id(self) -> int:
        """The id that goes after a response that lacks an end: the tokenizer's eos, if any."""
        return self._eos_id if self._eos_id is not None else min(self.end_ids)

    @functools.cached_property
    def bos_at_start(self) -> bool | None:
        """Whether a prompt begins with BOS, to be found nowhere else.

        None where that cannot be said: the token also opens every turn (ChatML) or ends one.
        """
        bos, bos_id = self.tokenizer.bos_token, self.tokenizer.bos_token_id
        if bos is None:
            return False
        if bos_id in self.end_ids:
            return None
        if self.template == "none":
            return bos_id in self._opening
        turns = (Message("user", "A"), Message("assistant", "B"), Message("user", "C"))
        count = self._rendering.render(turns, "", ask=True).count(str(bos))
        return None if count > 1 else count == 1

    @property
    def _eos_id(self) -> int | None:
        return cast(int | None, self.tokenizer.eos_token_id)

    @functools.cached_property
    def _rendering(self) -> rendering.Template:
        given = templates.choose(self.chat_template, self.tokenizer, "data.chat_template")
        own: Any = self.tokenizer.chat_template  # several templates are a dictionary
        text = given or (own.get("default") if isinstance(own, dict) else own)
        if not text:
            name = templates.suggestion(self.tokenizer)
            why = "it needs no tokens" if name == "plain" else "its vocabulary has the tokens"
            raise BadInput(
                "a tokenizer with a chat template",
                f"none in {self.tokenizer.name_or_path or type(self.tokenizer).__name__}",
                f'Set data.chat_template="{name}" ({why}), or another of '
                f"{', '.join(templates.NAMED)}, or a Jinja file; or set data.template="
                '"none" for strings that are to be taken as they stand.',
            )
        return rendering.Template(
            tokenizer=self.tokenizer, text=text, options=self.chat_template_kwargs
        )

    @functools.cached_property
    def _special(self) -> re.Pattern[str]:
        return rendering.special_tokens(self.tokenizer)

    @functools.cached_property
    def _opening(self) -> list[int]:
        return opening(self.tokenizer)

    def _plain(self, text: Text, origin: str) -> str:
        if isinstance(text, str):
            return text
        raise BadInput(
            'plain strings, because data.template="none"',
            f"a conversation of {len(text)} turns",
            'Set data.template="chat".',
            where=origin or None,
        )

    def _plain_prompt(self, prompt: Text, origin: str) -> str:
        text, bos = self._plain(prompt, origin), self.tokenizer.bos_token
        if bos and text.startswith(f"{bos}{bos}"):
            raise _doubled(f"{bos} at the start of a prompt", origin)
        return text

    def _check_plain_response(self, text: str, origin: str) -> None:
        """Refuses BOS in the middle of a sequence, and two ends where one is meant."""
        bos, bos_id = self.tokenizer.bos_token, self.tokenizer.bos_token_id
        if bos and bos_id not in self.end_ids and text.startswith(str(bos)):
            raise BadRow(
                "BOS in a response",
                "a response that goes on from its prompt",
                f"one that begins with {bos}",
                "Remove it, or set on_bad_row='drop'.",
                where=origin,
            )
        for end in self.tokenizer.convert_ids_to_tokens(sorted(self.end_ids)):
            if end and text.endswith(f"{end}{end}"):
                raise _doubled(f"{end} at the end of a response", origin)

    def _turns(self, text: Text, role: str, origin: str) -> tuple[Message, ...]:
        turns = (Message(role, text),) if isinstance(text, str) else text
        self._rendering.check_texts(turns, origin)
        return turns

    def _segments(
        self,
        opened: str,
        before: tuple[Message, ...],
        answer: tuple[Message, ...],
        origin: str,
        *,
        cut: bool,
    ) -> tuple[Segment, ...]:
        """The pieces of one response to a prompt that was rendered as `opened`."""
        turns = before + answer
        said = [i for i in range(len(before), len(turns)) if turns[i].role == "assistant"]
        if not said:
            return ()
        whole = self._until_end(turns[: said[-1] + 1], origin)
        segments, position = [], len(opened)
        for i in said:
            header = (
                opened if i == len(before) else self._rendering.render(turns[:i], origin, ask=True)
            )
            until = whole if i == said[-1] else self._until_end(turns[: i + 1], origin)
            for part in (header, until):
                if not whole.startswith(part):
                    raise unwritten.rewritten(part, whole, origin)
            segments.append(Segment(whole[position : len(header)], False))
            end = self._rendering.closing.end if cut and i == said[-1] else ""
            said_here = whole[len(header) : len(until)].removesuffix(end)
            segments.append(Segment(said_here, True))
            position = len(until)
        text = whole + self._rendering.closing.after
        unwritten.check(
            self._rendering, turns[: said[-1] + 1], len(before), text, origin, ask=False
        )
        return tuple(segment for segment in segments if segment.text)

    def _until_end(self, turns: tuple[Message, ...], origin: str) -> str:
        """A conversation that ends with an assistant turn, up to its end-of-turn token."""
        text = self._rendering.render(turns, origin, ask=False)
        if not text.endswith(self._rendering.closing.end + self._rendering.closing.after):
            raise BadRow(
                "end of turn not found",
                f"the template to close every assistant turn with {self._rendering.closing.end!r}",
                repr(text[-30:]),
                "Mend the row or the template, or set on_bad_row='drop'.",
                where=origin,
            )
        return text.removesuffix(self._rendering.closing.after)


def _doubled(what: str, origin: str) -> BadRow:
    return BadRow(
        "a special token twice in a row",
        "BOS and end-of-turn tokens once each",
        f"twice {what}",
        "Remove one of them, or set on_bad_row='drop'.",
        where=origin,
    )


def renderer_hash(renderer: Renderer) -> str:
    """Changes with anything that could change a token id: vocabulary, merges, template, ends."""
    tokenizer = renderer.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = sorted(tokenizer.get_vocab().items())
    else:
        # Padding and truncation are the traces of earlier calls, not properties of the tokenizer.
        rules = {**json.loads(backend.to_str()), "padding": None, "truncation": None}
    parts = {
        "rules": rules,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "template": renderer.template,
        "chat_template": renderer.text,
        "chat_template_kwargs": dict(renderer.chat_template_kwargs),
        "end_ids": sorted(renderer.end_ids),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
