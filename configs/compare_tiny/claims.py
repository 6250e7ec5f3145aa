"""What the authors of the methods say, and the entries of compare_tiny.py that ask about it."""

from alignax.compare.claims import Claim

LONGER = "After 128 updates: in the league's 32 the model does not learn what is asked of it."
CLAIMS = (
    Claim(
        name="own-samples",
        says="The model's own answers beat those of others.",
        source="RRHF, arXiv:2304.05302, table 3",
        entries=("rrhf", "rrhf, others' answers"),
        note="As many answers, judged alike. The others are eight writers, of whom the two careful "
        "ones write better than the model does before training.",
    ),
    Claim(
        name="own-rounds",
        says="Own answers of every round beat those of one.",
        source="RRHF, arXiv:2304.05302, table 3",
        entries=("rrhf rounds", "rrhf, own answers once"),
    ),
    Claim(
        name="rso-direct",
        says="Pairs drawn as the optimal policy would beat pairs of the data set.",
        source="RSO, arXiv:2309.06657, table 1",
        entries=("rso", "dpo"),
        note="Each with its own rate. The first are judged by the proxy, the second are the best "
        "and the worst of eight.",
    ),
    Claim(
        name="clear-pairs",
        says="The best answer against the worst teaches more than any two.",
        source="a choice that data sets make, arXiv:2310.16944 for one",
        entries=("dpo", "dpo, any two answers"),
        note="Far fewer of the first are judged against the gold reward.",
    ),
    Claim(
        name="ranking-alone",
        says="A ranking loss alone collapses; likelihood of the best answer keeps it.",
        source="RRHF, arXiv:2304.05302, section 4.3",
        entries=("rrhf", "rrhf, ranking alone"),
        kind="collapses",
        note="At the rate that was chosen with the likelihood.",
    ),
    Claim(
        name="hinge-reference",
        says="A hinge on log-probabilities collapses; with a reference it holds.",
        source="RSO, arXiv:2309.06657, section 5",
        entries=("hinge norm", "hinge, no reference"),
        kind="collapses",
        note="The second has the rate that was chosen for slic. Both have a margin of 20 nats.",
    ),
    Claim(
        name="more-negatives",
        says="More answers to compare with the best one help: 7 over 3 over 1.",
        source="PRO, arXiv:2306.17492, figure 4",
        entries=("pro", "pro, 4 answers", "pro, 2 answers"),
        note="The best one is the same, the best of all eight.",
    ),
    Claim(
        name="graded",
        says="Graded answers help more than one best among equals.",
        source="PRO, arXiv:2306.17492, section 4",
        entries=("pro", "pro, only the best marked"),
    ),
    Claim(
        name="less-sensitive",
        says="DPO is less sensitive to its hyperparameters than PPO.",
        source="DPO, arXiv:2305.18290, section 6",
        entries=("dpo", "ppo"),
        kind="spread",
        note="Over the trials of each, which differ in rate and in the weight of the divergence; "
        "a trial is one run a seed, so chance counts too.",
    ),
    Claim(
        name="easy-to-hard",
        says="Pairs from easy to hard beat a mix, and the reverse.",
        source="Contrastive post-training, arXiv:2310.02263, section 4",
        entries=("curriculum, easy to hard", "curriculum, mixed", "curriculum, hard to easy"),
        kind="best",
    ),
    Claim(
        name="statistical-rejection",
        says="Statistical rejection sampling beats taking the top of the samples.",
        source="RSO, arXiv:2309.06657, table 2",
        entries=("rso", "rso, the top of 16"),
    ),
    Claim(
        name="rejection-plain",
        says="Statistical rejection sampling beats taking any of the samples.",
        source="RSO, arXiv:2309.06657, table 2",
        entries=("rso", "rso, any of 16"),
    ),
    Claim(
        name="more-candidates",
        says="More candidates raise fine-tuning on the best of n: 8 over 4 over 2.",
        source="RAFT, arXiv:2304.06767, section 5",
        entries=("raft, 8 samples", "raft", "raft, 2 samples"),
    ),
    Claim(
        name="last-ppo",
        says="A last round of PPO adds to rejection sampling.",
        source="Llama 2, arXiv:2307.09288, section 3.4",
        entries=("rejection sampling, then ppo", "rejection sampling, as long again"),
        at="end",
        note="Both have made 64 updates; PPO begins from the model after 32.",
    ),
    Claim(
        name="forgets",
        says="To keep the samples of the last round alone forgets.",
        source="Llama 2, arXiv:2307.09288, section 3.4",
        entries=("rejection sampling", "rejection sampling, last round alone"),
    ),
    Claim(
        name="greedy-baseline",
        says="The greedy baseline makes REINFORCE's gradient smaller, whose variance it cuts.",
        source="ReMax, arXiv:2310.10505, section 4",
        entries=("remax", "reinforce, no baseline, set as remax"),
        metric="grad_norm",
        higher=False,
        note="Both with ReMax's settings, from as many samples but for the greedy ones, each along "
        "its own run; the mean square of the norm holds the squared mean too.",
    ),
    Claim(
        name="remax-memory",
        says="ReMax takes less memory than PPO.",
        source="ReMax, arXiv:2310.10505, table 2",
        entries=("remax", "ppo, set as remax"),
        metric="peak_mib",
        higher=False,
        note="What a process takes beyond what it had before the run. With a model this small that "
        "is mostly not the model.",
    ),
    Claim(
        name="remax-time",
        says="ReMax takes less time than PPO.",
        source="ReMax, arXiv:2310.10505, table 2",
        entries=("remax", "ppo, set as remax"),
        metric="seconds",
        higher=False,
    ),
    Claim(
        name="transformer-filtering",
        says="Asking for a high score beats learning from the high-scored alone.",
        source="Decision Transformer, arXiv:2106.01345; for text arXiv:2308.12050",
        entries=("decision transformer, for longer", "filtering, for longer"),
        at="end",
        note=LONGER,
    ),
    Claim(
        name="transformer-weighted",
        says="Asking for a high score beats weighting by the score.",
        source="arXiv:2308.12050",
        entries=("decision transformer, for longer", "reward weighted, for longer"),
        at="end",
        note=LONGER,
    ),
    Claim(
        name="steers",
        says="SteerLM's attributes steer: asked for kindness it is kinder than asked for the "
        "opposite.",
        source="SteerLM, arXiv:2310.05344, section 4.4",
        entries=("steerlm, for longer", "steerlm, asked for unkindness"),
        metric="kindness",
        at="end",
        note="One model, after 192 updates; after the league's 32 it does not know the words yet.",
    ),
    Claim(
        name="bootstrapping",
        says="SteerLM's bootstrapping helps: to learn from its own answers, rated anew.",
        source="SteerLM, arXiv:2310.05344, its ablation",
        entries=("steerlm, bootstrapped", "steerlm, as long as bootstrapped"),
        at="end",
        note="Both go on for 64 updates from the model after 192, the first on 1,800 answers of "
        "its own, which the judge of the data has rated.",
    ),
    Claim(
        name="hacked",
        says="A reward model is hacked far from the reference: its reward grows, the gold falls.",
        source="Gao et al., arXiv:2210.10760",
        entries=("grpo, far and unheld",),
        kind="hacked",
    ),
)
