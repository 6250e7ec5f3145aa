"""The families of the Hugging Face layout, and what their config.json says in our words.

A family is a value: how its config.json is read and written, and the names of its tensors. What a
config.json asks for that the decoder does not compute is refused by name, never passed over.
"""

import dataclasses
import difflib
import logging
from collections.abc import Mapping
from math import isfinite
from typing import Any

from alignax.core.errors import BadInput
from alignax.models.config import DecoderConfig
from alignax.models.families import gemma, gpt, kin, llama, qwen
from alignax.models.families.family import FULL, Family, Keys
from alignax.models.stored import Stored, stored

log = logging.getLogger(__name__)
# Keys of our own, which transformers keeps and does not read.
RANGES, TOLD = "score_ranges", "chat_template_kwargs"
MOST = 4096  # layers, and experts of a layer: each has names of its own, made before files are read
_PLAIN = {
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("n_embd", "n_layer", "n_head"),
}
FAMILIES: Mapping[str, Family] = {
    **llama.FAMILIES,
    **qwen.FAMILIES,
    **gemma.FAMILIES,
    **kin.FAMILIES,
    **gpt.FAMILIES,
}
# The nearest family of some that are not computed, and what sets them apart.
_NEAREST = {
    "gemma": ("gemma2", "it has no norms after its parts and no soft caps"),
    "gemma3": ("gemma3_text", "it has a vision tower, whose text model alone is computed"),
    "llama4": ("mixtral", "it mixes dense layers with experts, and shares one of these"),
    "phi": ("gpt_neox", "its attention and MLP share one norm"),
    "phi3small": ("phi3", "its attention is sparse in blocks"),
    "olmo": ("olmo2", "its norms have no weights, and stand before the parts"),
    "olmo3": ("olmo2", "it has windows by layer"),
    "mistral3": ("mistral", "it has a vision tower"),
    "qwen2_moe": ("qwen3_moe", "all its tokens share one expert"),
    "qwen2_vl": ("qwen2", "it has a vision tower"),
    "qwen3_next": ("qwen3_moe", "most of its attention is linear"),
    "deepseek_v3": ("mixtral", "its attention is latent"),
    "gpt_oss": ("mixtral", "its attention has sinks"),
    "gpt_neo": ("gpt2", "it has windows by layer"),
    "gptj": ("gpt_neox", "its attention and MLP share one norm, and neighbours turn together"),
    "falcon": ("gpt_neox", "its attention and MLP share one norm"),
    "opt": ("gpt2", "its positions begin at 2"),
    "bloom": ("gpt2", "its positions are biases of attention"),
    "granite": ("llama", "it scales its embeddings, residuals and logits"),
    "cohere": ("gpt_neox", "it scales its logits"),
    "starcoder2": ("gpt_neox", "its parts are in sequence, with grouped heads"),
    "stablelm": ("llama", "it norms with a mean and turns part of a head"),
}
# Everywhere without meaning for what is computed.
_HARMLESS = {
    *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "_name_or_path", "auto_map"),
    *("id2label", "label2id", "num_labels", "problem_type", "output_router_logits", RANGES, TOLD),
    *("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"),
    *("classifier_dropout", "router_aux_loss_coef", "router_jitter_noise", "cache_implementation"),
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type"),
    *("summary_use_proj", "n_ctx", "is_decoder", "_attn_implementation", "task_specific_params"),
    *("rope_scaling", "rope_parameters", "layer_types", "reorder_and_upcast_attn"),
    *("sep_token_id", "is_llama_config", "transformers.js_config", "gradient_checkpointing"),
    *("vocab_size", "quantization_config", "num_experts", "num_local_experts"),
    "original_max_position_embeddings",
}
_NEUTRAL = {
    "quantization_config": (None,),
    "is_causal": (True,),
    "partial_rotary_factor": (1, None),
    "rope_interleaved": (False, None),
    "num_experts": (0, 1, None),
    "num_local_experts": (0, 1, None),
}
# Asked for by these families, and by the keys that turn the rest on.
_COMPUTED = {key for family in FAMILIES.values() for key in (*family.defaults, *family.neutral)}
_SWITCHES = {"sliding_window": "use_sliding_window", "max_window_layers": "use_sliding_window"}


def from_hugging_face(config: Mapping[str, Any], where: str) -> DecoderConfig:
    """The decoder that a config.json describes, in old keys or in those of transformers 5.

    Args:
        config: the file's contents.
        where: its path, for errors.

    Raises:
        BadInput: the family is unknown, a key is missing or mistyped, or the config asks for
            something that the decoder does not compute.
    """
    family = _family(config.get("model_type"), where)
    _refuse_unsupported(config, family, where)
    for key in ("num_hidden_layers", "n_layer", "num_experts", "num_local_experts"):
        count = config.get(key)
        if isinstance(count, int) and count > MOST:
            remedy = "Compare config.json with the one that the weights were published with."
            raise BadInput(f"{key} of at most {MOST:,}", f"{count!r:.200}", remedy, where=where)
    return family.read(Keys({**family.defaults, **config}, where))


def to_hugging_face(
    config: DecoderConfig,
    family: str,
    source_config: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] = (),
    ranges: tuple[tuple[float, float], ...] = (),
) -> dict[str, Any]:
    """The config.json of a decoder, without its dtype.

    A decoder with a `score` head is a sequence classifier there, whose labels are its outputs.

    Rotary settings are written in the old keys, `rope_theta` and `rope_scaling`: transformers 5
    reads them, and transformers 4 would pass over `rope_parameters` without a word.

    Args:
        family: one of `FAMILIES`.
        source_config: the config.json that the weights came with. What the decoder does not know
            of (token ids, the vendor's notes) is kept.
        labels: names of the head's outputs; LABEL_0 and so on where there are none.
        ranges: the lowest and highest number that each was taught; none is written where none is
            known.

    Raises:
        BadInput: the family's layout has no place for what the decoder does, or the labels are
            not those of its outputs.
    """
    layout = _family(family, "family")
    replaced = ("rope_parameters", "dtype", "torch_dtype", "layer_types", "problem_type",
                "id2label", "label2id", "num_labels", "num_local_experts", RANGES,
                TOLD, "rope_theta", "partial_rotary_factor", "auto_map")  # fmt: skip
    kept = {k: v for k, v in (source_config or {}).items() if k not in replaced}
    # Without these transformers supplies its own ids, which may mean anything in this vocabulary.
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    about = {"architectures": [layout.architecture(config.num_scores)], "model_type": family}
    described = layout.write(config) | about
    classifier = _classifier(config, labels, ranges, kept)
    # What the layout has no place for is lost in writing, and reading again shows it.
    again = from_hugging_face(described | classifier, "family")
    for field in dataclasses.fields(DecoderConfig):
        wanted, found = getattr(config, field.name), getattr(again, field.name)
        if wanted != found:
            raise BadInput(
                f"a decoder that the {family} layout can describe",
                f"{field.name} = {wanted}, which would be read back as {found}",
                "Save it in the layout of the family that it came from."
                if family != kept.get("model_type")
                else "alignax reads this and cannot write it: choose other weights, and please "
                "report it.",
                where=f"config.{field.name}",
            )
    return ids | kept | classifier | described


def places(config: DecoderConfig, family: str) -> tuple[Stored, ...]:
    """Where every parameter of a decoder lies in a checkpoint of that family."""
    return stored(config, _family(family, "family").names)


def tensor_shapes(config: DecoderConfig, family: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of such a checkpoint by its name, in the order in which they are written."""
    return {name: place.stored_shape for place in places(config, family) for name in place.names}


def _family(name: Any, where: str) -> Family:
    if isinstance(name, str) and name in FAMILIES:
        return FAMILIES[name]
    nearest = difflib.get_close_matches(str(name), FAMILIES, n=1)
    hint = f"Did you mean {nearest[0]}? " if nearest else ""
    if isinstance(name, str) and name in _NEAREST:
        near, apart = _NEAREST[name]
        hint = f"The nearest is {near}, but {apart}. "
    raise BadInput(
        f"a model_type that alignax computes: {', '.join(FAMILIES)}",
        "none" if name is None else f"{name!r:.200}",
        f"{hint}Choose a model of one of these families.",
        where=where,
    )


def _refuse_unsupported(config: Mapping[str, Any], family: Family, where: str) -> None:
    known = {*family.defaults, *family.neutral, *_HARMLESS, *_PLAIN, *_NEUTRAL}
    for key, allowed in (_NEUTRAL | dict(family.neutral)).items():
        if key in config and key not in family.defaults and config[key] not in allowed:
            raise BadInput(
                f"{key} to be {allowed[0]!r}" if allowed[0] is not None else f"no {key}",
                repr(config[key]),
                "alignax does not compute this; choose weights that do not ask for it.",
                where=where,
            )
    types = config.get("layer_types") or ()
    if not isinstance(types, list | tuple) or not all(isinstance(kind, str) for kind in types):
        remedy = "Compare config.json with the one that the weights were published with."
        raise BadInput("layer_types, a list of names", f"{types!r:.200}", remedy, where=where)
    kinds = set(types)
    alike = "sliding_window" in family.defaults or kinds <= {FULL}
    if "layer_types" not in family.defaults and (len(kinds) > 1 or not alike):
        raise BadInput(
            "layer_types to be the same in every layer",
            ", ".join(sorted(kinds)),
            "This model_type does not mix kinds of attention; choose other weights.",
            where=where,
        )
    for key in sorted((_COMPUTED & config.keys()) - known):
        if config[key] in (None, False) or config.get(_SWITCHES.get(key, ""), True) is False:
            continue
        others = [name for name, other in FAMILIES.items() if key in other.defaults]
        raise BadInput(
            f"no {key}, which this model_type does not have",
            repr(config[key]),
            f"Take the key out, or name a family that has it: {', '.join(others)}.",
            where=where,
        )
    strange = sorted(config.keys() - known - _COMPUTED)
    if strange:
        log.info("%s: keys that say nothing about the decoder: %s", where, ", ".join(strange))


def _classifier(
    config: DecoderConfig,
    labels: tuple[str, ...],
    ranges: tuple[tuple[float, float], ...],
    source: Mapping[str, Any],
) -> dict[str, Any]:
    """The keys of a sequence classifier. transformers counts the outputs by `id2label`."""
    if labels and not len(labels) == len(set(labels)) == config.num_scores:
        raise BadInput(
            f"{config.num_scores} labels, all different: one for each output of the score head",
            f"{len(labels)}: {', '.join(labels)}",
            "Name every output once, or none of them.",
            where="labels",
        )
    if not config.num_scores:
        return {}
    names = labels or tuple(f"LABEL_{i}" for i in range(config.num_scores))
    # It reads the last token that is not this one, and in batches must be told which that is.
    pad, eos = source.get("pad_token_id"), source.get("eos_token_id")
    if pad is None:
        pad = next(iter(eos), None) if isinstance(eos, list) else eos
    known = {name: list(x) for name, x in zip(names, ranges, strict=False) if all(map(isfinite, x))}
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": "regression",
        "pad_token_id": pad,
        **({RANGES: known} if known else {}),
    }
