"""Denoise images with topaz's pretrained network: run by the Python of an environment that holds topaz-em 0.3.20.

    python topaz_denoise.py IN.npy OUT.npy       (n, h, w) float32 each; prints CPU-seconds per image

topaz wants torchvision for a rotation that denoising never makes; an empty stand-in keeps its import happy.
"""

import sys
import time
import types

import numpy as np


def main(source: str, target: str) -> None:
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules[names[2]].rotate = None  # type: ignore[attr-defined]
    import torch
    from topaz.denoise import Denoise

    torch.set_num_threads(1)
    images = np.load(source)
    model = Denoise("unet", use_cuda=False)
    outputs, began = [], time.process_time()
    for image in images:
        scale, mean = image.std(), image.mean()
        with torch.no_grad():
            found = model.denoise((image - mean) / scale)
        outputs.append(np.asarray(found, dtype=np.float32) * scale + mean)
    print((time.process_time() - began) / len(images))
    np.save(target, np.stack(outputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
