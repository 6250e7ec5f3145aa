"""Members of a sweep equal runs of their own; what cannot be a member's difference is refused."""

import dataclasses
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from alignax import jobs, sweep, sweepable
from alignax.cli import main
from alignax.config import load
from alignax.core.errors import BadInput
from alignax.core.records import Demonstration, Labelled, Preference, Scored
from alignax.core.types import TrainState
from alignax.data.pipeline import build_step
from alignax.data.plan import alike
from alignax.feeds import make_feed
from alignax.members import Sweep, parsed
from alignax.methods import DPO, GRPO, KTO, SFT, DecisionTransformer, RewardModel
from alignax.models.config import DecoderConfig
from alignax.models.lora import LoRA
from alignax.models.transformer import Decoder
from alignax.run import Run
from alignax.train.loop import Loop
from alignax.train.member_logs import joined, split
from alignax.train.optim import Optim, make_optimizer
from alignax.train.step import init_state, make_step
from tests.run_files import arrays, lines, updates
from tests.test_online_runs import setup as sampling
from tests.tiny_model import experiment as tiny
from tests.tiny_model import write_rows

GRID = {"method.beta": (0.1, 0.5)}
CONFIG = """
import pathlib
from alignax import Loop, Optim
from alignax.config import Evaluation
from tests.tiny_model import experiment as tiny

def experiment():
    return tiny(
        pathlib.Path(__file__).parent,
        loop=Loop(batch_size=8, max_steps=4, save_steps=2),
        optim=Optim(learning_rate=1e-3),
        evaluation=Evaluation(num_prompts=0),
    )
"""


def setup(folder, method, record, **changes):
    """Four small steps without evaluation, checkpoints or anything else that takes time."""
    loop = Loop(batch_size=8, max_steps=4)
    fields = {"loop": loop, "optim": Optim(learning_rate=1e-3), "tensorboard": False}
    made = tiny(folder, method=method, **(fields | changes))
    write_rows(pathlib.Path(made.data.train), 24, record)
    return dataclasses.replace(made, data=dataclasses.replace(made.data, eval=None))


def assert_close(found, expected):
    found, expected = (jax.tree.leaves(x) for x in (found, expected))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two strengths by two seeds from the command line, left as they were."""
    path = tmp_path_factory.mktemp("sweep") / "tiny.py"
    path.write_text(CONFIG)
    main(["train", str(path), "--seeds", "2", "--grid", "method.beta=0.1,0.5"])
    return path.parent / "run"


def test_every_member_leaves_what_a_run_of_its_own_leaves(swept):
    made = load(swept.parent / "tiny.py")
    for member in Sweep(seeds=2, grid=GRID).members(made):
        place = pathlib.Path(member.output_dir)
        alone = swept.parent / "alone" / place.parent.name / place.name
        jobs.train(dataclasses.replace(member, output_dir=str(alone)), quiet=True)
        weights = [load_file(x / "export" / "model.safetensors") for x in (place, alone)]
        assert weights[0].keys() == weights[1].keys()
        assert_close(*weights)
        logs = [lines(x / "metrics.jsonl") for x in (place, alone)]
        assert [row.keys() for row in logs[0]] == [row.keys() for row in logs[1]]
        for found, expected in zip(*logs, strict=True):
            # A tie between policy and reference is won or lost by rounding.
            names = [name for name in expected if not (found["step"] == 1 and "accura" in name)]
            one, two = ([row[name] for name in names] for row in (found, expected))
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)
        # Of the card's head the words are the same, and the metrics in it to rounding, as above.
        cards = [(x / "export" / "README.md").read_text().splitlines()[:20] for x in (place, alone)]
        heads = [[line.partition("value: ")[::2] for line in card] for card in cards]
        assert [words for words, _ in heads[0]] == [words for words, _ in heads[1]]
        values = [[float(x.rstrip("}")) for _, x in head if x] for head in heads]
        assert values[0]
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-4)


def test_a_line_for_each_member_says_its_settings_and_what_it_came_to(swept):
    rows = lines(swept / "members.jsonl")
    assert [(row["method.beta"], row["seed"]) for row in rows] == [
        (0.1, 0), (0.1, 1), (0.5, 0), (0.5, 1)
    ]  # fmt: skip
    for row in rows:
        assert row["directory"] == f"beta={row['method.beta']}/seed={row['seed']}"
        last = lines(swept / row["directory"] / "metrics.jsonl")[-1]
        assert row["eval_loss"] == last["eval_loss"]


def test_the_log_of_all_holds_means_sums_of_counts_and_the_clock(swept):
    members = [lines(path) for path in sorted(swept.glob("beta=*/seed=*/metrics.jsonl"))]
    for i, row in enumerate(lines(swept / "metrics.jsonl")):
        for name, value in row.items():
            total = sum(member[i][name] for member in members)
            wanted = total if name.startswith("num_") else total / 4
            assert value == pytest.approx(wanted, rel=1e-5, abs=1e-6), name
    clock = lines(swept / "timings.jsonl")
    assert [row["step"] for row in clock] == [1, 2, 3, 4]
    assert clock[0]["programs_compiled"] > 0
    assert clock[3]["programs_compiled"] == 0  # all members' updates are one program


def test_a_sweep_that_is_resumed_ends_bit_for_bit_like_an_unbroken_one(swept):
    again = swept.parent / "again"
    shutil.copytree(swept, again)
    shutil.rmtree(again / "checkpoint-4")
    command = ["train", str(swept.parent / "tiny.py"), "--seeds", "2"]
    main([*command, "--grid", "method.beta=0.1,0.5", "--output-dir", str(again)])
    names = ["metrics.jsonl", "members.jsonl"]
    for member in sorted(swept.glob("beta=*/seed=*")):
        place = str(member.relative_to(swept))
        names += [f"{place}/metrics.jsonl", f"{place}/export/model.safetensors"]
    assert len(names) == 2 + 2 * 4
    for name in names:
        assert (again / name).read_bytes() == (swept / name).read_bytes(), name
    found, expected = (arrays(x / "checkpoint-4") for x in (again, swept))
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], strict=True)


def test_a_sweep_and_a_run_do_not_go_on_from_each_other(swept, capsys):
    for options in ([], ["--seeds", "3", "--grid", "method.beta=0.1,0.5"]):
        with pytest.raises(SystemExit):
            main(["train", str(swept.parent / "tiny.py"), *options])
        assert "expected the settings of the run that" in capsys.readouterr().err


# On CPUs members are computed in turn, as whole runs above; here at once.
@pytest.mark.parametrize(
    ("method", "record", "sizes", "changes"),
    [
        (DPO(), Preference, Sweep(seeds=2), {"adapter": LoRA(rank=2, dropout=0.1)}),
        (KTO(), Labelled, Sweep(grid={"method.desirable_weight": (0.5, 1.0)}),
         {"loop": Loop(batch_size=8, max_steps=4, gradient_accumulation_steps=2)}),
        (SFT(), Demonstration, Sweep(grid={"optim.learning_rate": (1e-3, 1e-2)}), {}),
        (RewardModel(), Preference, Sweep(seeds=2), {}),
    ],
    ids=["draws", "means over the step", "learning rates", "a head by the seed"],
)  # fmt: skip
def test_updates_of_all_members_at_once_are_those_of_runs(method, record, sizes, changes, tmp_path):
    made = setup(tmp_path, method, record, **changes)
    lead, members = Run(made, quiet=True), sizes.members(made)
    with jax.set_mesh(lead.mesh):
        feed, state, step = _together(lead, members, sizes)
        base = None if lead.frozen is None else lead.frozen.base
        for _ in range(2):
            state, metrics = step(state, *feed.draw(None)[0], base)
        for i, member in enumerate(members):
            alone, found = _alone(Run(member, quiet=True), 2)
            own = jax.tree.map(lambda x, i=i: x[i], state.params)
            assert_close((own, metrics["loss"][i]), (alone.params, found["loss"]))


def _together(lead, members, sizes):
    """The batches, states and update of all members."""
    runs = [lead.like(member) for member in members]
    plans = alike([run.plan for run in runs[: sizes.seeds]])
    lead.plan = plans[0]
    feed = sweep.Feeds(lead, plans, len(sizes.points()), lead.initial_params())
    begun = [run.initial_trained(run.initial_params()) for run in runs]
    params = jax.tree.map(lambda *x: jnp.stack(x), *begun)
    optimizer = make_optimizer(lead.experiment.optim, 4, lead.trained[1])
    state = TrainState(jnp.int32(0), params, jax.vmap(optimizer.init)(params))
    update = sweep.make_step_of_all(lead, members, tuple(sizes.grid), 4, in_turn=False)
    return feed, state, jax.jit(update)


def _alone(run, steps):
    """A run's own state after some steps, with the shape of its own plan."""
    feed = make_feed(run, run.initial_params())
    optimizer = make_optimizer(run.experiment.optim, 4, run.trained[1])
    join = None if run.frozen is None else run.join
    base = None if run.frozen is None else run.frozen.base
    seed = run.experiment.seed
    step = jax.jit(make_step(run.method, run.model_fn(run.plan), optimizer, join=join, seed=seed))
    state = init_state(run.initial_trained(run.initial_params()), optimizer)
    for _ in range(steps):
        state, metrics = step(state, *feed.draw(None)[0], base)
    return state, metrics


def test_the_feed_has_the_batches_of_each_seed_and_goes_on_from_any_position(tmp_path):
    made = setup(tmp_path, SFT(), Demonstration)
    sizes = Sweep(seeds=2, grid={"optim.learning_rate": (1e-3, 1e-2)})
    lead = Run(made, quiet=True)
    plans = alike([lead.like(member).plan for member in sizes.members(made)[:2]])
    feed = sweep.Feeds(lead, plans, 2, lead.initial_params())
    before = feed.position()
    drawn = [feed.draw(None)[0] for _ in range(4)]
    for index, step in enumerate(drawn):
        for i in range(4):  # the seeds of a point side by side
            own = build_step(lead.train_data, plans[i % 2], index)
            jax.tree.map(
                np.testing.assert_array_equal, jax.tree.map(lambda x, i=i: x[i], step), own
            )
    # As sweeps kept it that read each seed by itself: after two steps.
    feed.restore({"seeds": [{"next_index": 2}] * 2})
    jax.tree.map(np.testing.assert_array_equal, feed.draw(None)[0], drawn[2])
    feed.restore(before)
    jax.tree.map(np.testing.assert_array_equal, feed.draw(None)[0], drawn[0])


def test_a_member_that_diverges_leaves_the_others_alone_and_is_not_exported(tmp_path):
    made = setup(tmp_path, SFT(), Demonstration)
    sizes = Sweep(grid={"optim.learning_rate": (1e-3, 1e30)})
    rows = lines(sweep.train(made, sizes, quiet=True))
    # The first update leaves finite weights of some 1e30; the second has no finite gradient.
    assert rows[1]["skipped"] == 1.0
    assert "skipped" not in rows[0]
    assert rows[0]["loss"] < 6.0
    found = sorted(path.parent.parent.name for path in tmp_path.glob("run/*/seed=0/export"))
    assert found == ["learning_rate=0.001"]
    logged = updates(tmp_path / "run" / "learning_rate=0.001" / "seed=0")
    rates = [line["learning_rate"] for line in logged]
    # One update of four warms up; then a straight line that would reach 0 at the fifth.
    np.testing.assert_allclose(rates, [1e-3, 0.75e-3, 0.5e-3, 0.25e-3], rtol=1e-6)


def test_a_member_whose_last_update_was_only_too_large_is_exported(tmp_path):
    loop = Loop(batch_size=8, max_steps=2, on_bad_update="skip", largest_grad_norm=1e-9)
    made = dataclasses.replace(setup(tmp_path, SFT(), Demonstration), loop=loop)
    rows = lines(sweep.train(made, Sweep(seeds=2), quiet=True))
    assert [row["skipped"] for row in rows] == [1.0, 1.0]
    assert len(list(tmp_path.glob("run/*/export"))) == 2


def test_means_are_over_the_members_that_are_finite():
    found = joined([{"loss": 1.0, "kl": float("nan")}, {"loss": float("inf"), "kl": float("nan")}])
    assert found["loss"] == 1.0
    assert np.isnan(found["kl"])
    assert split(found, 0)["loss"] == 1.0
    assert split(found, 1)["loss"] == float("inf")


# --- What is refused


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["loop.batch_size=8,16"], "method.beta, method.label_smoothing, optim.learning_rate; "
                                   "got loop.batch_size"),
        (["method.betta=0.1"], "Did you mean method.beta?"),
        (["method.beta=0.1,0.1"], "expected finite numbers, each once; got 0.1, 0.1"),
        (["method.beta=nan"], "expected finite numbers, each once; got nan"),
    ],
)  # fmt: skip
def test_a_grid_that_members_cannot_have_is_refused(words, told, tmp_path):
    with pytest.raises(BadInput) as error:
        Sweep(grid=parsed(words)).members(tiny(tmp_path))
    assert told in str(error.value)


@pytest.mark.parametrize(
    "words", [["method.beta"], ["method.beta="], ["method.beta=a"], ["method.beta=1"] * 2]
)
def test_a_grid_of_another_form_is_refused(words):
    with pytest.raises(BadInput, match="expected a setting and numbers, each setting once"):
        parsed(words)


def test_a_setting_may_be_written_with_hyphens():
    assert parsed(["optim.learning-rate=1e-5,1e-4"]) == {"optim.learning_rate": (1e-5, 1e-4)}


def test_no_seed_is_refused(tmp_path):
    with pytest.raises(BadInput, match="expected at least 1 seed; got 0"):
        Sweep(seeds=0).members(tiny(tmp_path))


def test_what_the_policy_is_told_in_words_is_no_strength(tmp_path):
    made = setup(tmp_path, DecisionTransformer(), Scored)
    with pytest.raises(BadInput, match="numbers that the loss of DecisionTransformer reads"):
        sweep.train(made, Sweep(grid={"method.target": (1.0, 2.0)}), quiet=True)


def test_a_method_on_samples_is_refused(tmp_path):
    with pytest.raises(BadInput, match="a method that learns from a data set; got GRPO on samples"):
        sweep.train(sampling(tmp_path, GRPO(num_samples=8)), Sweep(seeds=2), quiet=True)


def test_what_members_cannot_share_is_refused(tmp_path, monkeypatch):
    made = setup(tmp_path, RewardModel(), Preference, adapter=LoRA(rank=2))
    with pytest.raises(BadInput, match="one seed where an adapter of a reward model is trained"):
        sweep.train(made, Sweep(seeds=2), quiet=True)
    with pytest.raises(BadInput, match="no W&B project in a sweep"):
        sweep.train(dataclasses.replace(made, wandb="mine"), Sweep(seeds=2), quiet=True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(BadInput, match="expected a single process; got 2"):
        sweep.train(made, Sweep(seeds=2), quiet=True)
    assert not (tmp_path / "run").exists()


def test_members_at_once_have_attention_that_takes_their_masks_together(monkeypatch):
    shape = {"vocab_size": 50, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8}
    decoder = Decoder(config=DecoderConfig(**shape, layers=1, mlp_width=24), dtype="bfloat16")
    for backend, attention in (("gpu", "xla"), ("tpu", "auto")):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert sweepable.for_all_at_once(decoder).attention == attention
    named = dataclasses.replace(decoder, attention="cudnn")
    with pytest.raises(BadInput, match="attention that serves all members at once; got cudnn"):
        sweepable.for_all_at_once(named)
