"""placeholder"""

from alignax.config import Data, Evaluation, Experiment, Model
from alignax.data.tokenise import TokenLimits
from alignax.methods import DPO
from alignax.train.loop import Loop
from alignax.train.optim import Optim


def experiment() -> Experiment:
    return Experiment(
        method=DPO(beta=0.1),
        model=Model(model_name_or_path="weights/SmolLM2-135M-Instruct"),
        data=Data(
            train="configs/quickstart/train.jsonl",
            eval="configs/quickstart/test.jsonl",
            limits=TokenLimits(max_length=256),
        ),
        optim=Optim(learning_rate=1e-5, warmup_ratio=0.1),
        loop=Loop(batch_size=16, num_train_epochs=1),
        evaluation=Evaluation(),
        output_dir="runs/quickstart",
    )
