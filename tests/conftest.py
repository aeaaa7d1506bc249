"""What every test shares."""

import torch

# Two tests at once, or a browser beside one, should not fight over the cores.
torch.set_num_threads(1)
