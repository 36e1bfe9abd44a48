"""Make torch_zip.pth, torch_legacy.pth and torch_expected.npz with torch 2.13: pip install torch.

python tests/golden/make_torch_files.py tests/golden
"""

import collections
import sys
from pathlib import Path

import numpy as np
import torch

folder = Path(sys.argv[1])
generator = torch.Generator().manual_seed(0)
whole = torch.randn(6, 5, generator=generator)
tensors = collections.OrderedDict(
    {
        "weight": torch.randn(4, 3, 3, 3, generator=generator),
        "transposed": whole.t(),
        "slice": whole[2:5, 1:],  # of the same storage
        "half": torch.randn(7, generator=generator).half(),
        "bfloat16": torch.randn(7, generator=generator).bfloat16(),
        "double": torch.randn(2, 2, generator=generator).double(),
        "counter": torch.tensor(1234567890123),
        "int32": torch.arange(5, dtype=torch.int32),
        "int8": torch.arange(-3, 3, dtype=torch.int8),
        "bytes": torch.arange(250, 256).to(torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(3, generator=generator)),
        "channels_last": torch.randn(2, 3, 4, 4, generator=generator).to(
            memory_format=torch.channels_last
        ),
    }
)
content = {"state_dict": tensors, "epoch": 90, "arch": "resnet", "best": 76.1, "none": None}
torch.save(content, folder / "torch_zip.pth")
torch.save(content, folder / "torch_legacy.pth", _use_new_zipfile_serialization=False)
expected = {
    k: v.detach().float().numpy() if "float16" in k else v.detach().numpy()
    for k, v in tensors.items()
}
np.savez(folder / "torch_expected.npz", **expected)
