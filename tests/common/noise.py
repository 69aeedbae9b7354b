"""The smallest training: noise, and a network of a few thousand weights."""

import torch

SMALL = {"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 8}


class Samples(torch.utils.data.Dataset):
    """Eight noisy images of a size."""

    def __len__(self):
        return 8

    def __getitem__(self, index: int):
        image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(int(index)))
        return {"pixel_values": image, "labels": (image[0] > 0).long()}
