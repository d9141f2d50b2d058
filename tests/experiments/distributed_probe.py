"""What ``test_distributed.py`` runs in one process and in two: prints what both must agree on, as JSON."""

import json
import sys

import torch

from hdmlib.config import make_config
from hdmlib.data.sources import open_data
from hdmlib.experiments.engine import build_losses, build_reader, evaluation_loader, start_engine, training_loader
from hdmlib.experiments.prediction import validate
from hdmlib.models.registry import build_model
from hdmlib.reader import normalise

config = make_config("smoke", device="cpu", val_people=int(sys.argv[1]), loss="matching")
engine = start_engine(config)
data, losses = open_data(config), build_losses(config)
torch.manual_seed(0)
model = build_model(config.model, num_joints=len(data.train.skeleton))
parameters = list(model.parameters())
model, train, val = engine.prepare(model, training_loader(config, data.train), evaluation_loader(config, data.val))
train.set_epoch(1)

seen, gradient = [], None
for batch in train:
    seen.append(engine.gather(batch["index"]).tolist())
    if gradient is None:
        model.eval()  # batch statistics are each process's own, as in HRNet
        engine.backward(losses["matching"](model(normalise(batch["image"])), batch["joints"], batch["weights"]))
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
scores = validate(config, build_reader(config, model, data.val.skeleton), losses, val, data.val, engine)
if engine.is_main_process:
    probes = gradient[:: max(1, len(gradient) // 500)].tolist()
    found = {"processes": engine.num_processes, "seen": seen, "gradient": probes, "scores": scores.model_dump()}
    print("FOUND" + json.dumps(found))
