"""SFT on the quickstart's chosen answers: the plain baseline that DPO is to be compared with.

    alignax train configs/sft_quickstart.py

Cost:    not run yet on these weights; less than the quickstart: one response, no reference.
Expect:  not known yet.
"""

from alignax import SFT, Data, Evaluation, Experiment, Loop, Model, Optim, Sampler, TokenLimits


def experiment() -> Experiment:
    return Experiment(
        method=SFT(),
        model=Model(model_name_or_path="weights/SmolLM2-135M-Instruct"),
        data=Data(
            train="configs/quickstart/train.jsonl",
            eval="configs/quickstart/test.jsonl",
            limits=TokenLimits(max_length=256),
        ),
        optim=Optim(learning_rate=2e-5),
        loop=Loop(batch_size=16, num_train_epochs=1.0),
        evaluation=Evaluation(
            num_prompts=32, sampler=Sampler(max_new_tokens=80, temperature=0.7, top_p=0.95)
        ),
        output_dir="runs/sft_quickstart",
    )
