"""The settings that MIMU's tests walk, and those that make it cheap."""

GRADIENTS = ("margin", "cross_entropy", "logit")
SAMPLERS = ("sinkhorn", "gumbel", "threshold")
KAPPA, STEPS = 60, 6
CHEAP = {"topk": 40, "kappa": KAPPA, "gcn_steps": STEPS, "representatives": 16, "gcn_batch": 64}
LAYER = "linear2"  # 20 x 32
