"""What a run computes with: the method, the models and their mesh, each made when first asked for.

A run has a policy; a critic beside it where the method has a value head; an adapter in the
policy's place where one is trained. What is told apart here is told nowhere else.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from alignax.config import Experiment
from alignax.core import contract, own_code, processes
from alignax.core.errors import BadInput
from alignax.core.method import Method
from alignax.core.records import Lacking, LeftOut, Ranking, Record
from alignax.core.types import Batch, Layout, Outputs, Params
from alignax.data.convert import CONVERTERS
from alignax.data.plan import Plan
from alignax.data.sources import load_records
from alignax.data.tokenizers import check_same_ids
from alignax.models import peft, pretrained
from alignax.models.actor_critic import ActorCritic, actor_critic_outputs
from alignax.models.frozen import Frozen
from alignax.models.lora import Adapter
from alignax.models.outputs import outputs
from alignax.models.transformer import Decoder
from alignax.train import sharding
from alignax.train.step import ModelFn

LOOKED_AT = 16  # rows of the data, before all of them are prepared


@dataclasses.dataclass(frozen=True)
class Computed:
    """A model as the update calls it. Equal ones share compiled programs.

    Fields:
        reach: how far back each block of a row looks, where the plan knows it.
        entropy: whether it says that of each scored token's distribution too.
        temperature: divides the logits.
    """

    network: Decoder | ActorCritic
    reach: tuple[int, ...] | None = None
    entropy: bool = False
    temperature: float = 1.0

    def __call__(self, params: Params, batch: Batch, layout: Layout) -> Outputs:
        """The model's numbers for a batch."""
        compute = outputs if isinstance(self.network, Decoder) else actor_critic_outputs
        asked = {
            "reach": self.reach,
            "entropy": self.entropy,
            "temperature": self.temperature,
        }
        return compute(self.network, params, batch, layout, **asked)  # type: ignore[arg-type]


@dataclasses.dataclass(eq=False)
class Networks:
    """The models of an experiment, as the update, the sampler and the reference call them."""

    experiment: Experiment

    @functools.cached_property
    def method(self) -> Method:
        """The experiment's method, with what it takes from the training data."""
        method = self.experiment.method
        if not method.fits():
            return method
        if self.experiment.rollout and method.needs().sampling is None:
            return method  # what it takes from data it takes from the samples of each round
        with processes.first_before_others():  # a catalogue's data set may have to be prepared
            return method.fit(self._records(method))

    def _records(self, method: Method, limit: int | None = None) -> list[Record]:
        """The training data as the records that a method learns from."""
        data = self.experiment.data
        records, _ = load_records(
            self.experiment.reading("train")["source"],
            method.needs().record,
            split=data.train_split,
            on_bad_row=data.on_bad_row,
            limit=limit,
            pairing=data.pairing,
            strength=data.strength,
            chat=data.template == "chat",
            scored_turns=data.scored_turns,
            columns=data.columns,
        )
        return records

    def check_method(self) -> None:
        """Refuses a user's own method that does not keep to what `Method` says; traces alone.

        Raises:
            BadInput: naming the function of the method.
        """
        method, rollout = self.method, self.experiment.rollout
        if own_code.is_own(type(method)):
            return
        contract.check_class(method)  # again, with what `fit` has set
        if rollout and method.needs().sampling is not None:
            count, length = rollout.sampling(method).num_samples, rollout.max_new_tokens
            contract.check(method, responses=count, sampled=True, length=length)
            return
        # What a method makes of samples that are made up, it may not of others.
        no_fault = (LeftOut, Exception if rollout else Lacking)
        groups = []
        for record in self._some_records():
            with contextlib.suppress(*no_fault):
                groups.append(method.group(record))
        for group in groups:
            contract.check_group(method, group)
        if most := max((len(group.responses) for group in groups), default=0):
            attributes = max(
                len(group.attributes[0]) if group.attributes else 0 for group in groups
            )
            length = self.experiment.data.limits.max_length
            contract.check(method, responses=most, attributes=attributes, length=length)

    def _some_records(self) -> Sequence[Record]:
        """The first of the training data, or of made-up samples; none where they are not known."""
        data, rollout, wanted = self.experiment.data, self.experiment.rollout, self.method.needs()
        if rollout:
            count = rollout.sampling(self.method).num_samples
            texts = tuple(f"answer {i}" for i in range(count))
            samples = Ranking(
                prompt="a prompt", responses=texts, scores=tuple(map(float, range(count)))
            )
            convert = CONVERTERS.get((Ranking, wanted.record))
            one = [samples] if wanted.record is Ranking else []
            return one if convert is None else convert(samples, data.pairing, ())
        with contextlib.suppress(BadInput), processes.first_before_others():  # `prepare` says why
            return self._records(self.method, LOOKED_AT)
        return []

    @functools.cached_property
    def model_dir(self) -> Path:
        """Where the weights that the run begins from lie."""
        return pretrained.locate(self.experiment.model.model_name_or_path)

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices."""
        return sharding.make_mesh(self.experiment.mesh)

    @functools.cached_property
    def decoder(self) -> Decoder:
        """The model as pure functions."""
        settings = self.experiment.model
        config = pretrained.read_config(self.model_dir, num_scores=self.num_scores)
        sharding.check_heads(self.mesh, config.kv_heads)
        longest = self.experiment.data.limits.max_length
        if longest > config.max_positions:
            raise BadInput(
                f"at most the model's {config.max_positions} positions",
                str(longest),
                f"Give --data.limits.max-length {config.max_positions}, or set it in the config.",
                where="data.limits.max_length",
            )
        return Decoder(
            config=config,
            dtype=settings.dtype,
            remat=settings.remat,
            attention=settings.attention,
            scan_layers=settings.scan_layers,
        )

    @property
    def num_scores(self) -> int:
        """Outputs of the reward head; 0 for a language model."""
        needs = self.method.needs()
        return len(needs.score_names) if needs.head == "reward" else 0

    @property
    def described_scores(self) -> dict[str, Any]:
        """What an export says of the reward head's outputs, as `pretrained.save` takes it."""
        needs = self.method.needs()
        return (
            {"labels": needs.score_names, "ranges": needs.score_ranges} if self.num_scores else {}
        )

    def check_export(self) -> None:
        """Refuses, before it is trained, a model whose layout could not be written afterwards.

        Raises:
            BadInput: as `pretrained.check_export`. An adapter by itself needs no such layout.
        """
        settings = self.experiment.adapter
        if settings is None or settings.export == "merged":
            pretrained.check_export(self.model_dir, self.decoder.config, **self.described_scores)

    @functools.cached_property
    def network(self) -> Decoder | ActorCritic:
        """The whole model: the policy, and where the method has a value head, a critic.

        Raises:
            BadInput: a critic that has no row for an id of the policy's, or another token there.
        """
        if self.method.needs().head != "value":
            return self.decoder
        config = pretrained.read_config(self.critic_dir, num_scores=1)
        sharding.check_heads(self.mesh, config.kv_heads)
        if self.critic_dir.resolve() != self.model_dir.resolve():
            check_same_ids(
                self.model_dir,
                self.critic_dir,
                rows=(self.decoder.config.vocab_size, config.vocab_size),
                where="model.critic_name_or_path",
            )
        critic = dataclasses.replace(self.decoder, config=config)
        return ActorCritic(policy=self.decoder, critic=critic)

    @property
    def decoders(self) -> tuple[Decoder, ...]:
        """The policy's, and the critic's where there is one."""
        whole = self.network
        return (whole,) if isinstance(whole, Decoder) else (whole.policy, whole.critic)

    @functools.cached_property
    def frozen(self) -> Frozen | None:
        """The policy's weights, where an adapter is trained in their place."""
        settings = self.experiment.adapter
        if settings is None:
            return None
        family, config = peft.family_of(self.model_dir), self.decoder.config
        adapter = Adapter(
            decoder=self.decoder, settings=settings, aliases=peft.module_names(config, family)
        )
        return Frozen(
            adapter=adapter,
            read=self._read_policy,
            family=family,
            shardings=sharding.parameters(self.mesh, adapter.abstract(), adapter.axes()),
        )

    @functools.cached_property
    def trained(self) -> tuple[Params, Params, Params]:
        """Of all that is trained: shapes and dtypes, logical axes, shardings."""
        model = (self.network.abstract(), self.network.axes(), self.param_shardings)
        if self.frozen is None:
            return model
        adapter = self.frozen.adapter
        own = (adapter.abstract(), adapter.axes(), self.frozen.shardings)
        abstract, axes, places = (self.with_policy(x, y) for x, y in zip(model, own, strict=True))
        return abstract, axes, places

    @functools.cached_property
    def critic_dir(self) -> Path:
        """Where the weights that a critic begins from lie."""
        given = self.experiment.model.critic_name_or_path
        return self.model_dir if given is None else pretrained.locate(given)

    @functools.cached_property
    def param_shardings(self) -> Params:
        """Where each parameter lies."""
        return sharding.parameters(self.mesh, self.network.abstract(), self.network.axes())

    @functools.cached_property
    def decoding_shardings(self) -> Params | None:
        """Where the policy's parameters lie while it samples; None on one device."""
        if self.mesh.size == 1:
            return None
        places = sharding.parameters(
            self.mesh, self.decoder.abstract(), self.decoder.axes(), gathered=True
        )
        return sharding.unstacked(places, self.decoder.config.layers)

    def initial_params(self) -> Params:
        """The weights that the run begins from."""
        if isinstance(self.network, Decoder):
            return self.initial_policy()
        critic = pretrained.load(
            self.critic_dir,
            shardings=self.param_shardings["critic"],
            num_scores=1,
            seed=self.experiment.seed,
        ).params
        return {"policy": self.initial_policy(), "critic": critic}

    def initial_policy(self) -> Params:
        """The weights that the policy begins from: the reference. An adapter's base is shared."""
        return self._read_policy() if self.frozen is None else self.frozen.reference

    def _read_policy(self) -> Params:
        settings = self.experiment.adapter
        return pretrained.load(
            self.model_dir,
            dtype="float32" if settings is None or settings.base == "float32" else "bfloat16",
            shardings=self.policy(self.param_shardings),
            num_scores=self.num_scores,
            seed=self.experiment.seed,
        ).params

    def initial_trained(self, params: Params) -> Params:
        """Of `initial_params`, what is trained; the adapter in place of its base."""
        return (
            params
            if self.frozen is None
            else self.with_policy(params, self.frozen.begin(self.experiment.seed))
        )

    def policy(self, params: Params) -> Params:
        """Of all parameters, or of all that is trained, the policy's part."""
        return params if isinstance(self.network, Decoder) else params["policy"]

    def with_policy(self, params: Params, policy: Params) -> Params:
        """The same with another policy's part."""
        return policy if isinstance(self.network, Decoder) else params | {"policy": policy}

    def join(self, trained: Params, base: Params, key: PRNGKeyArray | None = None) -> Params:
        """All parameters, from what is trained and the base of the adapter."""
        assert self.frozen is not None
        attached = self.frozen.adapter.attach(base, self.policy(trained), key)
        return self.with_policy(trained, attached)

    def whole(self, trained: Params) -> Params:
        """All parameters, from what is trained."""
        return trained if self.frozen is None else self.join(trained, self.frozen.base)

    def model_fn(self, plan: Plan | None) -> ModelFn:
        """The model as the update calls it, for batches of one plan's shape; of any, where None."""
        reach = None if plan is None else plan.shape.reach
        entropy = "entropy" in self.method.needs().outputs
        return Computed(self.network, reach, entropy, self.temperature)

    def policy_fn(self) -> ModelFn:
        """The policy alone, for batches of any shape."""
        return Computed(self.decoder, temperature=self.temperature)

    @property
    def temperature(self) -> float:
        """What divides the logits wherever a log-probability is computed that is learnt from."""
        if not self.method.needs().tempered:
            return 1.0
        return self.experiment.rollout.sampling(self.method).temperature or 1.0

    def put(self, arrays: Any) -> Any:
        """Takes a step's arrays, a leading axis of micro-batches before all, to the devices."""
        return processes.put(arrays, sharding.rows(self.mesh, leading=1))
