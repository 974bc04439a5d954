"""Published scores under the twenty corruptions, for comparison with measured ones.

Sources: the results tables and the leaderboards in the README of the benchmark's code (Chen, Wang and Zheng, NeurIPS
2021 Datasets and Benchmarks, arXiv 2111.00880), and the article of CFAT. The README's two Market-1501 tables differ for
BoT and AGW, so every row names its table. All were measured with the original, unseeded draws and the original frost
photographs.
"""

from __future__ import annotations

import dataclasses

RESULTS, LEADERBOARD, CFAT = "README, results", "README, leaderboard", "CFAT article"
Scores = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Reference:
    """A published row, in per cent.

    Attributes:
        dataset: the data set's name here.
        method: as published.
        source: the table.
        clean: mINP, mAP, Rank-1 of clean queries in a clean gallery; None where not given.
        corrupted: mINP, mAP, Rank-1 where both are corrupted.
        spread: the published standard deviation of those, where given.
        train_corruption: the corruptions used in training; rows with another value than "none" break the benchmark's
            rule and cannot be compared with the others.
    """

    dataset: str
    method: str
    source: str
    clean: Scores | None
    corrupted: Scores
    spread: Scores | None = None
    train_corruption: str = "none"


_MARKET, _CUHK, _MSMT = "market1501", "cuhk03_np", "msmt17"

REFERENCES = (
    Reference(_MARKET, "BoT", RESULTS, (59.30, 85.06, 93.38), (0.20, 8.42, 27.05)),
    Reference(_MARKET, "AGW", RESULTS, (64.03, 86.51, 94.00), (0.35, 12.13, 31.90)),
    Reference(_MARKET, "SBS", RESULTS, (60.03, 88.33, 95.90), (0.29, 11.54, 34.13)),
    Reference(_MARKET, "CIL", RESULTS, (57.90, 84.04, 93.38), (1.76, 28.03, 55.57), (0.13, 0.45, 0.63)),
    Reference(_MARKET, "TransReID", LEADERBOARD, (69.29, 88.93, 95.07), (1.98, 27.38, 53.19)),
    Reference(_MARKET, "CaceNet", LEADERBOARD, (70.47, 89.82, 95.40), (0.67, 18.24, 42.92)),
    Reference(_MARKET, "LightMBN", LEADERBOARD, (73.29, 91.54, 96.53), (0.50, 14.84, 38.68)),
    Reference(_MARKET, "PLR-OS", LEADERBOARD, (66.42, 88.93, 95.19), (0.48, 14.23, 37.56)),
    Reference(_MARKET, "RRID", LEADERBOARD, None, (0.46, 13.45, 36.57)),
    Reference(_MARKET, "Pyramid", LEADERBOARD, None, (0.36, 12.75, 35.72)),
    Reference(_MARKET, "PCB", LEADERBOARD, None, (0.41, 12.72, 34.93)),
    Reference(_MARKET, "BDB", LEADERBOARD, None, (0.32, 10.95, 33.79)),
    Reference(_MARKET, "AGW", LEADERBOARD, None, (0.30, 10.80, 33.40)),
    Reference(_MARKET, "LUPerson", LEADERBOARD, None, (0.29, 10.37, 32.22)),
    Reference(_MARKET, "OSNet", LEADERBOARD, (56.78, 85.67, 94.69), (0.23, 10.37, 30.94)),
    Reference(_MARKET, "ABD-Net", LEADERBOARD, None, (0.26, 9.81, 29.65)),
    Reference(_MARKET, "MGN", LEADERBOARD, None, (0.29, 9.72, 29.56)),
    Reference(_MARKET, "BoT", LEADERBOARD, (51.00, 83.90, 94.30), (0.10, 6.60, 26.20)),
    Reference(_MARKET, "CIL, trained on corrupted data", CFAT, None, (18.48, 56.36, 75.86), None, "all20"),
    Reference(_MARKET, "CFAT", CFAT, None, (32.96, 69.74, 85.68), None, "all20"),
    Reference(_CUHK, "AGW", RESULTS, (49.97, 62.25, 64.64), (0.46, 3.45, 5.90)),
    Reference(_CUHK, "CIL", RESULTS, (53.87, 65.16, 67.29), (4.25, 16.33, 22.96), (0.39, 0.76, 1.04)),
    Reference(_CUHK, "CaceNet", LEADERBOARD, (65.22, 75.13, 77.64), (2.09, 10.62, 17.04)),
    Reference(_CUHK, "PLR-OS", LEADERBOARD, (62.72, 74.67, 78.14), (0.89, 6.49, 10.99)),
    Reference(_CUHK, "MGN", LEADERBOARD, (51.18, 62.73, 69.14), (0.46, 4.20, 5.44)),
    Reference(_MSMT, "BoT", RESULTS, (9.91, 48.34, 73.53), (0.07, 5.28, 20.20)),
    Reference(_MSMT, "AGW", RESULTS, (12.38, 51.84, 75.21), (0.08, 6.53, 22.77)),
    Reference(_MSMT, "SBS", RESULTS, (10.26, 56.62, 82.02), (0.05, 7.89, 28.77)),
    Reference(_MSMT, "CIL", RESULTS, (12.45, 52.40, 76.10), (0.32, 15.33, 39.79), (0.03, 0.20, 0.45)),
    Reference(_MSMT, "OSNet", LEADERBOARD, (4.05, 40.05, 71.86), (0.08, 7.86, 28.51)),
)

# Notes for a comparison.
NOTES = {
    _CUHK: "published on the detected boxes, 767/700 split",
    _MSMT: "published on version 2 (masked faces)",
}


def of_dataset(name: str) -> tuple[Reference, ...]:
    """Returns the published rows of a data set; empty where there are none."""
    return tuple(row for row in REFERENCES if row.dataset == name)
