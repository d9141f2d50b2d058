"""What ``test_distributed.py`` runs in one process and in two: prints what both must agree on, as JSON, a line a case.

A case is an argument of four numbers, such as 7-4-21-1: people to train on, batch size, people to validate on, parts in
which each process computes its share of a batch.
"""

import json
import sys

import torch
from accelerate.utils import gather_object

from hdmlib.config import make_config
from hdmlib.data.sources import open_data
from hdmlib.experiments.engine import (
    build_losses,
    build_reader,
    evaluation_loader,
    leave_process_group,
    share_weight,
    start_engine,
    training_loader,
)
from hdmlib.experiments.prediction import validate
from hdmlib.experiments.steps import backward
from hdmlib.models.registry import build_model


def probe(train_people: int, batch_size: int, val_people: int, parts: int) -> None:
    people = {"train_people": train_people, "batch_size": batch_size, "val_people": val_people}
    config = make_config("smoke", device="cpu", loss="matching", **people)
    engine = start_engine(config)
    data, losses = open_data(config), build_losses(config)
    torch.manual_seed(0)
    model = build_model(config.model, num_joints=len(data.train.skeleton))
    parameters = list(model.parameters())
    model = engine.prepare(model)
    train, val = training_loader(config, data.train, engine), evaluation_loader(config, data.val, engine)
    train.set_epoch(1)

    seen, gradients = [], []
    model.eval()  # batch statistics are each process's own, as in HRNet
    for step, batch in enumerate(train):
        weight = share_weight(engine, min(batch_size, train_people - step * batch_size))
        own = batch["index"].tolist() if weight else []
        seen.append([index for part in gather_object([own]) for index in part])
        backward(engine, model, losses["matching"], batch, parts, weight)
        gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        model.zero_grad()
    scores = validate(config, build_reader(config, model, data.val.skeleton), losses, val, data.val, engine)
    if engine.is_main_process:
        probes = [gradient[:: max(1, len(gradient) // 500)].tolist() for gradient in gradients]
        found = {"processes": engine.num_processes, "seen": seen, "gradients": probes, "scores": scores.model_dump()}
        print("FOUND" + json.dumps(found))


for case in sys.argv[1:]:
    probe(*map(int, case.split("-")))
leave_process_group()
