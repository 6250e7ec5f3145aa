"""SteerLM: summaries with the ratings that experts gave them, then asked for high ones.

    alignax train configs/steerlm_summeval.py

Dong et al. 2023, arXiv:2310.05344. The data are a directory of rows with prompt, response and
attributes; the hub's nvidia/HelpSteer2 has them too, as columns of their own:
`--data.train nvidia/HelpSteer2 --data.eval nvidia/HelpSteer2 --data.eval-split validation`.

That is step 3, on what people rated. All four steps, where DATA are any prompts with completions:

    alignax train configs/attribute_reward_model_summeval.py
    alignax score runs/attribute_reward_model_summeval/export --data DATA --to annotated.jsonl \
        --whole-numbers
    alignax train --method steerlm --data annotated.jsonl
    python configs/steerlm/bootstrap.py ask annotated.jsonl --to asked.jsonl --quality coherence
    alignax sample runs/steerlm_annotated/export --data asked.jsonl --to sampled.jsonl \
        --num-samples 4 --temperature 1 --top-k 50 --top-p 1
    python configs/steerlm/bootstrap.py part sampled.jsonl --to answers.jsonl
    alignax score runs/attribute_reward_model_summeval/export --data answers.jsonl \
        --to bootstrap.jsonl --whole-numbers
    alignax train --method steerlm --data bootstrap.jsonl --model runs/steerlm_annotated/export

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does with a tiny model.
"""

from alignax import Data, Evaluation, Experiment, Loop, Model, Optim, Sampler, SteerLM, TokenLimits


def experiment() -> Experiment:
    return Experiment(
        method=SteerLM(),
        model=Model(model_name_or_path="weights/SmolLM2-135M-Instruct"),
        data=Data(
            train="../shared/data/summeval_attributes",
            eval="../shared/data/summeval_attributes",
            limits=TokenLimits(max_length=2048),
        ),
        optim=Optim(learning_rate=1e-5),
        loop=Loop(batch_size=16, num_train_epochs=1.0),
        evaluation=Evaluation(num_prompts=32, sampler=Sampler(max_new_tokens=96, temperature=0.7)),
        output_dir="runs/steerlm_summeval",
    )
