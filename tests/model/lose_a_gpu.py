"""Drives a CUDA GPU into a fault it does not recover from, and prints what the runner makes of it."""

from __future__ import annotations

import torch

from model.config import Architecture, Attention, Block, FeedForward, Grouped
from model.initialise import random_model
from server.engine.gpu import GpuRunner
from server.engine.request import Request, Sampling
from server.engine.runner import Room
from server.engine.step import DeviceLost, Row, Step


def main() -> None:
    architecture = Architecture(128, 32, 64, (Block((Attention(Grouped(2, 2, 16)), FeedForward(32))),))
    runner = GpuRunner(random_model(architecture, 0).to("cuda"), Room(128, 2, 32))
    beyond = (1, 2, 10**6)  # no such row in the embedding: an assertion on the GPU
    try:
        runner.run(Step(0, (Row(Request("a", beyond, Sampling(4), 0.0), 0, 3, ((1,),)),)))
    except DeviceLost:
        print("lost")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
