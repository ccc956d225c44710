"""What every test shares: one thread, so that the same seed gives the same bits and the cores stay free."""

import torch

torch.set_num_threads(1)
