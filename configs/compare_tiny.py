"""Which method is better? All of them on a tiny model whose reward is known.

    alignax compare configs/compare_tiny.py              # runs/compare_tiny/report.html
    alignax compare configs/compare_tiny.py --only dpo rrhf grpo --seeds 4
    alignax report runs/compare_tiny                     # the page again, nothing trained

The world, its writers and the gold reward are in configs/compare_tiny/world.py; the model (0.27M
parameters, its card beside it) and the data were made by make_model.py and make_data.py there; what
is asked beside the league is in claims.py.
Methods learn from noisy judgements, those that sample from a reward model fitted on them; nothing
learns from the gold reward, which alone decides. Each entry has four settings, of which the gold
reward on prompts that are not reported chooses, the mean of three runs each; then all have the same
fresh seeds. Rates and strengths are those that this model can learn with in 32 updates, with the
authors' own strength, or TRL's, among them.

Another model: give `base.model` and the data another path; the rest stays. Cells run one a core.

Cost:    56 minutes on 2 cores, with nothing compiled or prepared: 946 runs (2026-11-27, 2 cores of
         an AMD EPYC with AVX-512).
Expect:  benchmarks/RESULTS.md, "Which method is better", and docs/choosing.md.
"""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignax import (
    CPO,
    DAPO,
    DPO,
    GRPO,
    GSPO,
    IPO,
    KTO,
    ORPO,
    PPO,
    PRO,
    RAFT,
    REINFORCE,
    RLOO,
    RRHF,
    RSO,
    SFT,
    Curriculum,
    Data,
    DecisionTransformer,
    DrGRPO,
    Evaluation,
    Experiment,
    Filtering,
    Function,
    Hinge,
    Loop,
    Model,
    OnlineDPO,
    Optim,
    PlackettLuceDPO,
    RejectionSampling,
    ReMax,
    RewardModel,
    RewardWeighted,
    RobustDPO,
    Rollout,
    Sampler,
    SimPO,
    SLiC,
    SLiCSampleRank,
    SteerLM,
    TokenLimits,
)
from alignax.compare.settings import Comparison, Entry, Family
from alignax.core import modules

HERE = Path(__file__).parent / "compare_tiny"
RATE = "optim.learning_rate"
STRENGTHS = ("careless", "plain", "careful")  # sources of others.jsonl.gz, the weakest first
SAMPLES = 4  # of a prompt, for methods that sample: as many as the data set has pairs of


def file(name: str) -> str:
    return str(HERE / f"{name}.jsonl.gz")


def trials(rates: Sequence[float], **strengths: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    """Every rate with every value of one setting of the method, if any."""
    ((name, values),) = strengths.items() if strengths else (("", (None,)),)
    return tuple(
        {RATE: rate} | ({} if value is None else {f"method.{name}": value})
        for rate, value in itertools.product(rates, values)
    )


FOUR = (1e-4, 3e-4, 1e-3, 3e-3)
TWO = (3e-4, 1e-3)


def offline() -> list[Entry]:
    """Those that learn from the data set: the model's own answers, judged once."""
    rows = {
        "sft on the best": (SFT(), trials(FOUR)),
        "dpo": (DPO(), trials(TWO, beta=(0.1, 0.5))),
        "robust dpo": (RobustDPO(), trials(TWO, beta=(0.1, 0.5))),
        "ipo": (IPO(), trials(TWO, tau=(0.1, 0.5))),
        "hinge norm": (Hinge(), trials(TWO, beta=(0.05, 0.5))),
        "slic": (SLiC(), trials(TWO, nll_weight=(0.1, 1.0))),
        "kto": (KTO(), trials(TWO, beta=(0.1, 0.5))),
        "orpo": (ORPO(), trials(TWO, weight=(0.1, 1.0))),
        "simpo": (SimPO(), trials(TWO, gamma=(0.5, 1.0))),
        "cpo": (CPO(), trials(TWO, beta=(0.1, 0.5))),
        "rrhf": (RRHF(), trials(TWO, sft_weight=(0.1, 1.0))),
        "pro": (PRO(), trials(TWO, sft_weight=(0.05, 0.5))),
        "plackett-luce dpo": (PlackettLuceDPO(), trials(TWO, beta=(0.1, 0.5))),
        "filtering": (Filtering(), trials(TWO, keep=(0.25, 0.5))),
        "reward weighted": (RewardWeighted(), trials(TWO, beta=(0.5, 1.0))),
        "decision transformer": (DecisionTransformer(target=5.0), trials(FOUR)),
    }
    found = [
        Entry(name=name, method=method, family="offline", trials=tried)
        for name, (method, tried) in rows.items()
    ]
    steerlm = Entry(
        name="steerlm", method=SteerLM(), family="offline", trials=trials(FOUR),
        settings={"data.train": file("attributes")},
    )  # fmt: skip
    curriculum = Entry(
        name="curriculum", method=Curriculum(), family="offline",
        trials=trials(TWO, beta=(0.1, 0.5)), settings={"data.pairing": "all"},
    )  # fmt: skip
    return [*found, steerlm, curriculum]


def sampling() -> list[Entry]:
    """Those that learn from their own samples, judged by the proxy."""
    k = {"num_samples": SAMPLES}
    iterated = {
        "raft": (RAFT(**k, refresh=8, epochs=1), trials(FOUR)),
        "rejection sampling": (RejectionSampling(**k, refresh=8), trials(FOUR)),
        "rso": (
            RSO(num_samples=16, num_accepted=SAMPLES, refresh=16),
            trials(TWO, gamma=(0.05, 0.5)),
        ),
        "slic sample rank": (SLiCSampleRank(**k, refresh=16), trials(TWO, nll_weight=(0.1, 1.0))),
        "rrhf rounds": (RRHF(), trials(TWO, sft_weight=(0.1, 1.0))),
    }  # fmt: skip
    online = {
        "online dpo": (OnlineDPO(**k), trials(TWO, beta=(0.1, 0.5))),
        "reinforce": (REINFORCE(**k, baseline="batch"), trials(TWO, beta=(0.0, 0.05))),
        "rloo": (RLOO(**k), trials(TWO, beta=(0.0, 0.05))),
        "remax": (ReMax(num_samples=SAMPLES + 1), trials(TWO, beta=(0.0, 0.1))),
        "grpo": (GRPO(**k), trials(TWO, beta=(0.0, 0.04))),
        "dr grpo": (DrGRPO(**k, max_length=40), trials(FOUR)),
        "dapo": (DAPO(**k, refresh=2), trials(FOUR)),
        "gspo": (GSPO(**k, refresh=2), trials(FOUR)),
        # One pass over four batches, as InstructGPT's: two would halve what it draws.
        "ppo": (PPO(**k, refresh=4, epochs=1), trials(TWO, beta=(0.0, 0.05))),
    }
    families: dict[Family, Any] = {"iterated": iterated, "online": online}
    found = [
        Entry(name=name, method=method, family=family, trials=tried)
        for family, rows in families.items()
        for name, (method, tried) in rows.items()
    ]
    rounds = {"rollout.num_samples": SAMPLES, "rollout.refresh": 8}
    found = [
        dataclasses.replace(e, settings=rounds) if e.name == "rrhf rounds" else e for e in found
    ]
    chance = Entry(
        name="random selection", method=RAFT(**k, refresh=8, epochs=1), family="baseline",
        like="raft", reward=Function(function=f"{HERE / 'world.py'}:chance"),
    )  # fmt: skip
    return [*found, chance]


def variant(name: str, like: Entry, method: Any = None, **settings: Any) -> Entry:
    """What a claim or a check asks for beside the league, at the settings of a league entry."""
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    return dataclasses.replace(
        like, name=name, like=like.name, trials=(), league=False, method=method or like.method,
        settings={**like.settings, **dotted},
    )  # fmt: skip


def variants(league: Mapping[str, Entry]) -> list[Entry]:
    """Of claims and checks."""
    rrhf, pro, raft, rso = (league[x] for x in ("rrhf", "pro", "raft", "rso"))
    curriculum, steerlm = league["curriculum"], league["steerlm"]
    rejection, ppo, remax = league["rejection sampling"], league["ppo"], league["remax"]
    # What is asked for in words that the model has never read takes more than 32 updates.
    parts = {"method__attributes": ("form", "kindness", "relevance"),
             "method__target": (4.0, 4.0, 4.0)}  # fmt: skip
    longer = variant("steerlm, for longer", steerlm, **parts, loop__max_steps=192,
                     loop__eval_steps=192)  # fmt: skip
    once = dataclasses.replace(league["rrhf rounds"], like="rrhf rounds", trials=(), league=False)
    strong = {"data__train": file("others"), "data__pairing": "strength",
              "data__strength": STRENGTHS}  # fmt: skip
    return [
        variant("dpo, shuffled labels", league["dpo"], data__train=file("shuffled")),
        variant("dpo, any two answers", league["dpo"], data__pairing="random"),
        variant("rrhf, others' answers", rrhf, data__train=file("others")),
        dataclasses.replace(
            once, name="rrhf, own answers once", settings={"rollout.num_samples": SAMPLES,
                                                           "rollout.refresh": 32},
        ),
        variant("rrhf, ranking alone", rrhf, method__sft_weight=0.0),
        # With the margin that `hinge norm` has at a beta of 0.05: 20 nats, which SLiC's 1 is not.
        variant("hinge, no reference", league["slic"], method__nll_weight=0.0,
                method__delta=20.0),
        variant("pro, 2 answers", pro, data__train=file("two")),
        variant("pro, 4 answers", pro, data__train=file("four")),
        variant("pro, only the best marked", pro, data__train=file("flat")),
        variant("curriculum, easy to hard", curriculum, **strong),
        variant("curriculum, hard to easy", curriculum, method__start=1.0, method__end=0.0,
                **strong),
        variant("curriculum, mixed", curriculum, method__start=0.5, method__end=0.5, **strong),
        variant("rso, the top of 16", rso, method__beta=0.01),
        variant("rso, any of 16", rso, method__beta=1000.0),
        variant("raft, 2 samples", raft, method__num_samples=2),
        variant("raft, 8 samples", raft, method__num_samples=8),
        variant("rejection sampling, last round alone", rejection, method__replay="none"),
        variant("rejection sampling, to go on from", rejection),
        dataclasses.replace(variant("rejection sampling, then ppo", ppo),
                            after="rejection sampling, to go on from"),
        variant("rejection sampling, as long again", rejection, loop__max_steps=64),
        variant("reinforce, no baseline, set as remax", remax,
                REINFORCE(num_samples=SAMPLES, baseline="none")),
        # As many prompts and answers as ReMax draws, but for its greedy ones.
        variant("ppo, set as remax", remax, PPO(num_samples=SAMPLES, refresh=1, epochs=1)),
        *(variant(f"{name}, for longer", league[name], loop__max_steps=128, loop__eval_steps=128)
          for name in ("decision transformer", "filtering", "reward weighted")),
        longer,
        # The same model, for an update at a rate of 0 changes nothing.
        dataclasses.replace(
            variant("steerlm, asked for unkindness", longer, method__target=(4.0, 0.0, 4.0),
                    loop__max_steps=1, loop__eval_steps=1, optim__learning_rate=0.0,
                    optim__warmup_steps=0),
            like="steerlm", after=longer.name,
        ),
        dataclasses.replace(
            variant("steerlm, bootstrapped", longer, loop__max_steps=64, loop__eval_steps=64),
            like="steerlm", after=longer.name, own_rows=f"{HERE / 'bootstrap.py'}:rows",
        ),
        dataclasses.replace(
            variant("steerlm, as long as bootstrapped", longer, loop__max_steps=64,
                    loop__eval_steps=64),
            like="steerlm", after=longer.name,
        ),
        variant("grpo, far and unheld", league["grpo"], method__beta=0.0,
                optim__learning_rate=3e-3, loop__max_steps=96, loop__eval_steps=16),
    ]  # fmt: skip


def comparison() -> Comparison:
    base = Experiment(
        method=SFT(),
        model=Model(model_name_or_path=str(HERE / "model"), remat="none"),
        data=Data(train=file("train"), template="none", limits=TokenLimits(max_length=96)),
        rollout=Rollout(max_new_tokens=40, slots=64, shapes="halves", kept=1, show_every=0),
        optim=Optim(lr_scheduler_type="constant", warmup_steps=4),
        loop=Loop(batch_size=16, max_steps=32, eval_steps=16, on_bad_update="skip"),
        evaluation=Evaluation(
            sampler=Sampler(num_samples=2, max_new_tokens=40, temperature=1.0), batch_size=32
        ),
        output_dir="",
    )
    league = [*offline(), *sampling()]
    proxy = dataclasses.replace(
        base,
        method=RewardModel(),
        data=dataclasses.replace(base.data, eval=file("train"), eval_limit=64, pairing="all"),
        rollout=Rollout(),
        optim=Optim(learning_rate=1e-3),
        loop=Loop(batch_size=64, max_steps=150, logging_steps=10),
    )
    world = HERE / "world.py"
    return Comparison(
        title="Notes about animals",
        base=base,
        gold=Function(function=f"{world}:gold"),
        proxy=proxy,
        tune=file("tune"),
        test=file("test"),
        entries=(*league, *variants({entry.name: entry for entry in league})),
        claims=modules.load(f"{HERE / 'claims.py'}:CLAIMS", "compare_tiny", what="claims"),
        tuning_seeds=3,
        seeds=8,
        compute_like="grpo",
        most_updates=112,
        answers=128,
        measures={"kindness": Function(function=f"{world}:kindness")},
        again="dpo",
        shuffled="dpo, shuffled labels",
        workers=os.cpu_count() or 1,
        gold_says="a rule in the code: 1 for the animal asked for and 1 for the place, less for "
        "others; 1/2 for each different kind word up to three, less 1/2 for each unkind one; less "
        "for length off 8 to 18 words, for repeated and for unfinished sentences; 3.5 at best",
        proxy_says="a reward model of the same size, fitted on all pairs of the data set, whose "
        "judgements are the gold reward and Gumbel noise of size 1",
        data_says="A group is a prompt, a pair or an answer, as the method has it.",
        limits=(
            "One made-up world, one model of 0.27M parameters, 32 to 112 updates of 16 groups.",
            "Four trials a method: another range of settings can change the order.",
            "Settings were chosen by the gold reward, which elsewhere nobody has, at equal data: "
            "at equal arithmetic others may do better.",
            "Most of the rates that were chosen lie at an end of the range that was tried.",
            "A variant has the settings that were chosen for the entry it varies, and no trials of "
            "its own.",
            "Eight seeds rule out no failure that comes in one run of ten.",
            "Each table is corrected for its own pairs, and the claims for theirs.",
            "Equal data are as many groups to learn from, and not as many answers or judgements: a "
            "group is one answer, a pair, or eight; rso draws four times as many to find its own.",
            "Runs that checks and claims ask for end at update 32 where nothing else is asked; a "
            "league run of another length may have met other groups in the last four of them.",
            "Seeds share one data set, one draw of its labels and one reward model: intervals do "
            "not say how far others would lead.",
            "Pairs are the best and the worst of eight answers, of which fewer are judged against "
            "the gold reward than of any two.",
            "Values at equal arithmetic lie on straight lines between measurements 16 updates "
            "apart; who spends less than the budget by update 112 has none.",
            "What the proxy cost to fit, before any method ran, is charged to none.",
            "Nothing is said of larger models, of real preferences, or of longer training.",
        ),
    )
