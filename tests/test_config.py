"""An experiment: loaded, changed by dotted names, checked, compared and written as JSON.

What the command line makes of it is in `test_cli.py`.
"""

import copy
import dataclasses
import functools
import json

import pytest

from alignax.config import (
    Data,
    Evaluation,
    Experiment,
    Model,
    check,
    nearest,
)
from alignax.core.errors import BadInput
from alignax.core.setting_types import alike, did_you_mean
from alignax.data.tokenise import TokenLimits
from alignax.generate.rollout import Rollout
from alignax.generate.server import Server
from alignax.methods import DPO, SFT
from alignax.models.lora import LoRA
from alignax.overrides import names, override
from alignax.saved import first_difference, to_json
from alignax.train.loop import Loop
from alignax.train.optim import Optim
from alignax.train.sharding import Mesh


def experiment(**changes) -> Experiment:
    fields = {
        "method": DPO(beta=0.5),
        "model": Model(model_name_or_path="weights/tiny"),
        "data": Data(train="train.jsonl", limits=TokenLimits(max_length=256)),
        "output_dir": "runs/tiny",
    }
    return Experiment(**(fields | changes))


def refusal(function, *arguments) -> str:
    with pytest.raises(BadInput) as error:
        function(*arguments)
    return str(error.value)


# --- Changing settings


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method.beta", "0.25"], experiment(method=DPO(beta=0.25))),
        (["--method.beta=2"], experiment(method=DPO(beta=2.0))),
        (["--method.label-smoothing", "1e-1"],
         experiment(method=DPO(beta=0.5, label_smoothing=0.1))),
        (["--loop.max-steps", "50"], experiment(loop=Loop(max_steps=50))),
        (["--loop.max_steps", "50"], experiment(loop=Loop(max_steps=50))),
        (["--loop.max-steps", "None"], experiment()),
        (["--seed", "3", "--optim.learning-rate", "3e-5"],
         experiment(seed=3, optim=Optim(learning_rate=3e-5))),
        (["--no-tensorboard"], experiment(tensorboard=False)),
        (["--wandb", "project"], experiment(wandb="project")),
        (["--mesh.data", "-1", "--mesh.tensor", "2"], experiment(mesh=Mesh(tensor=2))),
        (["--data.limits.max-length", "64"],
         experiment(data=Data(train="train.jsonl", limits=TokenLimits(max_length=64)))),
        (["--evaluation.sampler.top-k", "5"],
         experiment(evaluation=Evaluation(
             sampler=dataclasses.replace(Evaluation().sampler, top_k=5)))),
        (["--model.dtype", "bfloat16"],
         experiment(model=Model(model_name_or_path="weights/tiny", dtype="bfloat16"))),
        (["--adapter.rank", "4", "--adapter.targets", "query", "mlp/up", "--adapter.dora"],
         experiment(adapter=LoRA(rank=4, targets=("query", "mlp/up"), dora=True))),
        ([], experiment()),
    ],
    ids=lambda x: " ".join(x) or "nothing" if isinstance(x, list) else "",
)  # fmt: skip
def test_a_dotted_name_changes_that_setting_and_no_other(arguments, expected):
    found = override(experiment(), arguments)
    assert found == expected
    # 2 and 2.0 are equal, so types are compared in the JSON.
    assert json.dumps(to_json(found)) == json.dumps(to_json(expected))


@pytest.mark.parametrize("arguments", [["--adapter", "None"], ["--adapter=None"]])
def test_an_adapter_is_left_out_by_none_and_what_stands_beside_it_counts(arguments):
    both = ["--seed", "3", *arguments, "--data.eval", "None"]
    data = dataclasses.replace(experiment().data, eval="test.jsonl")
    found = override(experiment(adapter=LoRA(rank=4), data=data), both)
    assert found == experiment(seed=3)
    assert override(experiment(), arguments) == experiment()


def test_a_server_within_the_rollout_is_left_out_by_none():
    served = experiment(rollout=Rollout(server=Server(url="http://localhost/v1", model="m")))
    assert override(served, ["--rollout.server", "None"]) == experiment()


SETTINGS = (
    "method, model, data, output_dir, adapter, optim, loop, rollout, mesh, evaluation, seed, "
    "tensorboard, wandb"
)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        (
            "--method.betta",
            "a setting; DPO has beta, label_smoothing, average, nll_weight; got method.betta.\n"
            "    Did you mean method.beta?",
        ),
        ("--mehtod.beta=1", f"a setting; Experiment has {SETTINGS}; got mehtod.\n"
         "    Did you mean method?"),
        # A right name in the wrong place is answered with where it stands.
        ("--beta", f"a setting; Experiment has {SETTINGS}; got beta.\n"
         "    Did you mean method.beta?"),
        ("--optim.max-steps", f"a setting; Optim has {', '.join(names(Optim()))}; "
         "got optim.max_steps.\n    Did you mean loop.max_steps?"),
        # Of several places that of the same section, though its name is longer.
        ("--loop.epochs", f"a setting; Loop has {', '.join(names(Loop()))}; got loop.epochs.\n"
         "    Did you mean loop.num_train_epochs?"),
        ("--epochs", f"a setting; Experiment has {SETTINGS}; got epochs.\n"
         "    Did you mean rollout.epochs or loop.num_train_epochs?"),
        # Of a group of settings that there may be none of, what a config writes.
        ("--rollout.server.url", "a setting's name; got rollout.server.url.\n"
         "    A config sets rollout.server: server=Server(url=..., model=...)."),
        # A group is no setting.
        ("--model", f"a setting of model: {', '.join(names(experiment().model))}; "
         "got --model alone.\n    Write --model.SETTING VALUE."),
        (
            "--data.limits.longest",
            f"a setting; TokenLimits has {', '.join(names(TokenLimits()))}; "
            "got data.limits.longest.\n    alignax train CONFIG --help lists them all.",
        ),
        ("--seed.value", "a setting's name; got seed.value.\n"
         "    alignax train CONFIG --help lists them all."),
    ],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_the_known_ones_and_the_nearest(argument, text):
    assert refusal(override, experiment(), [argument, "1"]) == f"command line: expected {text}"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--loop.max-steps", "many"], "loop.max-steps"),
        (["--method.beta", "high"], "method.beta"),
        (["--model.dtype", "float15"], "model.dtype"),
        (["--seed"], "seed"),
    ],
)
def test_a_value_of_another_type_is_refused(arguments, shown, capsys):
    text = refusal(override, experiment(), arguments)
    assert text == (
        f"command line: expected values of the settings' own types; got {' '.join(arguments)}.\n"
        "    The message above names the setting."
    )
    assert shown in capsys.readouterr().err


def test_names_are_those_of_all_settings_with_their_rooms():
    found = names(experiment())
    assert len(found) == len(set(found))
    assert {
        "method.beta",
        "model.dtype",
        "data.limits.max_length",
        "evaluation.sampler.top_p",
        "seed",
    } <= set(found)
    assert "data.limits" not in found


def test_the_nearest_name_is_none_where_nothing_is_alike():
    assert nearest("lerning_rate", names(Optim())) == "learning_rate"
    assert nearest("zzz", names(Optim())) is None
    assert alike("zzz", names(Optim())) == []


def test_names_that_are_equally_near_are_all_asked_for():
    assert alike("dppo", ["cpo", "dpo", "ppo"]) == ["dpo", "ppo"]
    assert did_you_mean(["dpo", "ppo"]) == "Did you mean dpo or ppo?"
    assert did_you_mean(["a", "b", "c", "d"]) == "Did you mean a, b or c?"
    assert did_you_mean(["a"]) == "Did you mean a?"
    assert did_you_mean([]) == ""


# --- JSON, and what may change on the way


def test_as_json_settings_carry_their_classs_name():
    found = to_json(experiment(seed=4))
    assert json.loads(json.dumps(found)) == found
    assert found["type"] == "Experiment"
    own = {"beta": 0.5, "label_smoothing": 0.0, "average": False, "nll_weight": None}
    assert found["method"] == {"type": "DPO"} | own
    assert found["data"]["limits"]["type"] == "TokenLimits"
    assert (found["seed"], found["wandb"], found["tensorboard"]) == (4, None, True)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({}, None),
        ({"method": DPO(beta=0.25)}, ("method.beta", 0.5, 0.25)),
        ({"method": SFT()}, ("method.type", "DPO", "SFT")),
        ({"seed": 1}, ("seed", 0, 1)),
        ({"loop": Loop(max_steps=9)}, ("loop.max_steps", None, 9)),
        ({"loop": Loop(keep=9, batch_size=8)}, ("loop.batch_size", 64, 8)),
        (
            {"data": Data(train="train.jsonl", limits=TokenLimits(max_length=64))},
            ("data.limits.max_length", 256, 64),
        ),
        # None of these changes a number of the run.
        ({"output_dir": "elsewhere", "tensorboard": False, "wandb": "project"}, None),
        ({"mesh": Mesh(fsdp=2)}, None),
        ({"loop": Loop(logging_steps=9, save_steps=3, keep=9)}, None),
        ({"loop": Loop(gradient_accumulation_steps=4)}, None),
        # What a run that has stopped at a bad update, or stands still, is told to try.
        ({"loop": Loop(on_bad_update="skip", max_bad_updates=9, largest_grad_norm=1.0)}, None),
        ({"loop": Loop(on_bad_update="roll_back", stall_seconds=None)}, None),
        ({"evaluation": Evaluation(answers="always", shown=1)}, None),
        ({"evaluation": Evaluation(num_prompts=1)}, ("evaluation.num_prompts", 64, 1)),
        # The reference's log-probs are computed in batches of this size, and rounded with them.
        ({"evaluation": Evaluation(batch_size=4)}, ("evaluation.batch_size", 16, 4)),
        (
            {
                "data": Data(
                    train="train.jsonl", cache_dir="there", limits=TokenLimits(max_length=256)
                )
            },
            None,
        ),
    ],
)
def test_the_first_difference_is_one_that_decides_the_numbers(changes, difference):
    old, new = to_json(experiment()), to_json(experiment(**changes))
    assert first_difference(old, new) == difference


def test_a_setting_that_only_one_of_two_versions_knows_is_a_difference():
    old, new = to_json(experiment()), to_json(experiment())
    del old["optim"]["adam_b1"]
    assert first_difference(old, new) == ("optim.adam_b1", None, 0.9)


# --- Checks


def test_a_right_experiment_passes():
    check(experiment())


# The tests' own type checks would refuse these where they are made; a config file of a user has
# none, so they are put in afterwards.
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("model.dtype", "bfloat", "one of float32, bfloat16; got 'bfloat'.\n"
         "    Did you mean 'bfloat16'?"),
        ("model.remat", "everything", "one of none, attention, elementwise, block; got "
         "'everything'.\n    Choose one of these."),
        ("output_dir", "", "a folder; got ''.\n    Name one: everything would be written beside "
         "what else is here."),
        ("data.cache_dir", " ", "a folder; got ' '.\n    Name one: everything would be written "
         "beside what else is here."),
        ("data.template", None, "one of chat, none; got None.\n    Did you mean 'none'?"),
        ("data.on_bad_row", "dorp", "one of refuse, drop; got 'dorp'.\n"
         "    Did you mean 'drop'?"),
        ("data.limits.overlong", "trim", "one of drop, cut, refuse; got 'trim'.\n"
         "    Choose one of these."),
        ("data.limits.max_length", 0, "a number of at least 1; got 0.\n    Change the setting."),
        ("loop.batch_size", "16", "a value of type int; got '16' (str).\n"
         "    Change it in the config file."),
        ("optim.learning_rate", None, "a value of type float; got None (NoneType).\n"
         "    Change it in the config file."),
        ("loop.max_steps", 2.5, "a value of type int or None; got 2.5 (float).\n"
         "    Change it in the config file."),
        ("method.beta", "strong", "a value of type float; got 'strong' (str).\n"
         "    Change it in the config file."),
        ("seed", True, "a value of type int; got True (bool).\n"
         "    Change it in the config file."),
        ("data.limits", 512, "a value of type TokenLimits; got 512 (int).\n"
         "    Change it in the config file."),
        ("evaluation.batch_size", -2, "a number of at least 1; got -2.\n    Change the setting."),
        ("loop.batch_size", 0, "a positive number; got 0.\n    Leave it out for the default."),
        ("loop.max_steps", -1, "a positive number; got -1.\n    Leave it out for the default."),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_by_name(name, value, text):
    *rooms, last = name.split(".")
    given = copy.deepcopy(experiment(evaluation=Evaluation(), loop=Loop()))
    inside = functools.reduce(getattr, rooms, given)
    object.__setattr__(inside, last, value)
    assert refusal(check, given) == f"{name}: expected {text}"


def test_a_map_of_columns_that_is_none_is_refused_and_what_is_no_source_too():
    data = Data(train="train.jsonl", columns={"prompt": "a", "chosen": "a"})
    assert refusal(check, experiment(data=data)).startswith(
        "data.columns: chosen: expected another column for each name; got a, which is read as"
    )
    made = experiment()
    object.__setattr__(made.data, "train", 3)
    assert refusal(check, made).startswith(
        "data.train: expected a value of type str or Iterable; got 3 (int)."
    )


def test_the_last_turns_are_scored_alone_where_conversations_are_imitated():
    data = Data(train="train.jsonl", scored_turns="last")
    check(experiment(method=SFT(), data=data))
    assert refusal(check, experiment(data=data)).startswith(
        'data.scored_turns: expected data.scored_turns="all" for a method that imitates no '
        "conversations; got 'last'."
    )
