"""Names of GPUs -> what their makers' data sheets say. Knows no model.

flops: bf16 with fp32 sums, dense: half of a figure that a data sheet gives "with sparsity".
bandwidth: of the memory. memory: what programs can have; cards with GDDR memory and ECC keep a
sixteenth of it for the check bits while ECC is on, as it is from the factory on server cards.
Each figure was held against what others publish of the same data sheets (sellers' copies of them,
tables of specifications), and nothing differed but the memory of the B300, also given as 288 GB.
Not found there, and so unchecked: products per second of H100-NVL and H200-NVL, and FP8 with fp32
sums of the RTX 5090, which is twice its bf16 figure as on the RTX 4090.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

GIB = 2**30
TERA, GIGA = 1e12, 1e9
BY_ECC = 15 / 16
LARGE = 70 * GIB  # from here on vLLM takes more requests at a time, but on an A100


@dataclass(frozen=True, slots=True)
class Gpu:
    """flops, fp8_flops: per second; without FP8 units the latter is 0.  bandwidth: bytes/s.

    memory: bytes.  max_num_seqs: requests that `vllm serve` takes at a time unless told otherwise.
    """

    flops: float
    bandwidth: float
    memory: float
    fp8_flops: float = 0.0
    max_num_seqs: int = 256
    source: str = "given by hand"

    def times(self, count: int) -> Gpu:
        """So many of them together, as if links between them took no time."""
        return replace(
            self,
            flops=count * self.flops,
            fp8_flops=count * self.fp8_flops,
            bandwidth=count * self.bandwidth,
            memory=count * self.memory,
        )


def _gpu(
    tflops: float, gb_per_second: float, gib: float, fp8: float, source: str, seqs: int = 0
) -> Gpu:
    seqs = seqs or (1024 if gib * GIB >= LARGE else 256)
    return Gpu(tflops * TERA, gb_per_second * GIGA, gib * GIB, fp8 * TERA, seqs, source)


# vLLM's defaults: vllm.engine.arg_utils, get_batch_defaults.
GPUS = {
    "T4": _gpu(65, 320, 16 * BY_ECC, 0, "NVIDIA T4 data sheet; fp16, it has no bf16"),
    "L4": _gpu(121, 300, 24 * BY_ECC, 242, "NVIDIA L4 data sheet"),
    "A10": _gpu(125, 600, 24 * BY_ECC, 0, "NVIDIA A10 data sheet"),
    "A6000": _gpu(154.8, 768, 48, 0, "NVIDIA RTX A6000 data sheet; ECC off, as delivered"),
    "L40S": _gpu(362, 864, 48 * BY_ECC, 733, "NVIDIA L40S data sheet"),
    "RTX4090": _gpu(165.2, 1008, 24, 330.3, "NVIDIA Ada GPU architecture, white paper"),
    "RTX5090": _gpu(209.5, 1792, 32, 419, "NVIDIA RTX Blackwell GPU architecture, white paper"),
    "RTX-PRO-6000": _gpu(
        503.8, 1792, 96, 1007.6, "NVIDIA RTX Blackwell PRO GPU architecture, white paper; ECC off"
    ),
    "A100-40": _gpu(312, 1555, 40, 0, "NVIDIA A100 data sheet"),
    "A100-80": _gpu(312, 2039, 80, 0, "NVIDIA A100 data sheet, SXM", seqs=256),
    "A100-80-PCIe": _gpu(312, 1935, 80, 0, "NVIDIA A100 data sheet, PCIe", seqs=256),
    "H100": _gpu(989.4, 3350, 80, 1978.9, "NVIDIA H100 data sheet, SXM"),
    "H100-PCIe": _gpu(756, 2000, 80, 1513, "NVIDIA H100 data sheet, PCIe"),
    "H100-NVL": _gpu(835.5, 3900, 94, 1670.5, "NVIDIA H100 data sheet, NVL"),
    "H200": _gpu(989.4, 4800, 141, 1978.9, "NVIDIA H200 data sheet, SXM"),
    "H200-NVL": _gpu(835.5, 4800, 141, 1670.5, "NVIDIA H200 data sheet, NVL"),
    "H20": _gpu(148, 4000, 96, 296, "NVIDIA H20 figures as published by server makers"),
    "B200": _gpu(2250, 8000, 180, 4500, "NVIDIA HGX B200 data sheet, an eighth"),
    "B300": _gpu(2250, 8000, 262, 4500, "NVIDIA HGX B300 data sheet, an eighth of 2.1 TB"),
    "MI300X": _gpu(1307.4, 5300, 192, 2614.9, "AMD Instinct MI300X data sheet"),
    "MI325X": _gpu(1307.4, 6000, 256, 2614.9, "AMD Instinct MI325X data sheet"),
}
